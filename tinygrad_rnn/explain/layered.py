"""layered: boxes in columns, arrows between them, as SVG.

The layout is Sugiyama's: every box has its column, an arrow that crosses columns gets a place in each, the order
within a column is the barycentre of its neighbours, and heights are the least-squares fit to the neighbours' heights
that keeps the boxes apart (isotonic regression). Knows text sizes only by a rule of thumb. Refuses to know what the
boxes mean. Nothing stands below it.

Source: K. Sugiyama, S. Tagawa, M. Toda, "Methods for visual understanding of hierarchical system structures" (1981).
"""

from html import escape
from unicodedata import east_asian_width

_CHAR, _LINE, _PAD, _GAP, _APART, _MARGIN = 7.3, 15, 9, 44, 16, 24  # pixels, for text of 12
_BLUE = "#0072b2"


class _Place:
    """A box, or a point that an arrow passes: its column, its size and where its centre is."""

    def __init__(self, column, width, height, weight=1.0):
        self.column, self.width, self.height, self.weight, self.x, self.y = column, width, height, weight, 0.0, 0.0
        self.before, self.after = [], []


def draw(boxes, arrows, loops, groups, colours):
    """The SVG text. `groups` are (label, members): a frame is drawn around them; `loops` run back below everything."""
    places = [_Place(box.rank, max(max(map(_width, box.lines)) + 2 * _PAD, 30), _LINE * len(box.lines) + 12,
                     8.0 if box.kind == "state" else 1.0) for box in boxes]  # the states make the line that is followed
    passed = {}
    routes = [_route(places[a], places[b], passed) for a, b in arrows]
    everything = list({id(p): p for p in [*places, *(p for route in routes for p in route)]}.values())
    columns = _columns(everything)
    _order(columns)
    _heights(columns)
    _widths(columns)
    frames = [_frame(label, [places[i] for i in members], everything) for label, members in groups]
    top = min([p.y - p.height / 2 for p in everything] + [f[1] for f in frames])
    bottom = max([p.y + p.height / 2 for p in everything] + [f[3] for f in frames])
    left = min([p.x - p.width / 2 for p in everything] + [f[0] for f in frames])
    right = max([p.x + p.width / 2 for p in everything] + [f[2] for f in frames])
    out = [_frame_svg(*frame) for frame in frames]
    drawn = set()
    out += [_arrow_svg(route, drawn) for route in routes]
    lowest_first = sorted(loops, key=lambda loop: -places[loop[0]].y - places[loop[1]].y)
    lanes = [_loop_svg(places[a], places[b], left, right, bottom, k) for k, (a, b) in enumerate(lowest_first)]
    out += [_box_svg(box, place, *colours[box.kind]) for box, place in zip(boxes, places)]
    side = _MARGIN + (20 + 8 * len(loops) if loops else 0)
    x, y, width = left - side, top - _MARGIN, right - left + 2 * side
    height = bottom - top + 2 * _MARGIN + (6 + 16 * len(loops) if loops else 0)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{x:.0f} {y:.0f} {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" '
            'font-family="DejaVu Sans, Verdana, Helvetica, sans-serif" font-size="12">')
    tips = "".join(f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                   f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="{fill}"/></marker>'
                   for name, fill in (("tip", "#444"), ("back", _BLUE)))
    background = f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
    return "\n".join([head, f"<defs>{tips}</defs>", background, *out, *lanes, "</svg>"]) + "\n"


# ---- where everything goes ----------------------------------------------------------------------------------


def _width(text):
    return _CHAR * sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _route(a, b, passed):
    """The places an arrow passes, one in every column between its ends; arrows from one box share them until they part."""
    route = [a, *(passed.setdefault((a, column), _Place(column, 0, 0)) for column in range(a.column + 1, b.column)), b]
    for p, q in zip(route, route[1:]):
        if q not in p.after:
            p.after.append(q)
            q.before.append(p)
    return route


def _columns(everything):
    columns = [[] for _ in range(max(p.column for p in everything) + 1)]
    for place in everything:
        columns[place.column].append(place)
    return columns


def _order(columns, sweeps=12):
    """Sort every column by the mean position of its neighbours, to and fro; keep the order with the fewest crossings."""
    best, fewest = [list(c) for c in columns], _crossings(columns)
    for sweep in range(sweeps):
        forth = sweep % 2 == 0
        for column in columns if forth else columns[::-1]:
            position = {id(p): i / max(len(c) - 1, 1) for c in columns for i, p in enumerate(c)}
            means = {id(p): _mean([position[id(q)] for q in (p.before if forth else p.after)], position[id(p)])
                     for p in column}
            column.sort(key=lambda p: means[id(p)])
        if (crossings := _crossings(columns)) < fewest:
            best, fewest = [list(c) for c in columns], crossings
    columns[:] = best


def _mean(values, otherwise, weights=None):
    weights = weights or [1.0] * len(values)
    return sum(v * w for v, w in zip(values, weights)) / sum(weights) if values else otherwise


def _crossings(columns):
    total = 0
    for column, following in zip(columns, columns[1:]):
        position = {id(p): i for i, p in enumerate(following)}
        ends = [(i, position[id(q)]) for i, p in enumerate(column) for q in p.after if id(q) in position]
        total += sum(1 for k, (a, b) in enumerate(ends) for c, d in ends[k + 1:] if (a - c) * (b - d) < 0)
    return total


def _heights(columns, sweeps=24):
    """Heights near those of the neighbours, in order and apart."""
    for column in columns:
        _apart(column, [0.0] * len(column))
    for sweep in range(sweeps):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            _apart(column, [_mean([q.y for q in p.before + p.after], p.y, [q.weight for q in p.before + p.after])
                            for p in column])


def _apart(column, wished):
    """Σ weight · (y − wished)² least, under the order and the distances: pool adjacent violators."""
    offsets, total = [], 0.0
    for i, place in enumerate(column):
        total += (column[i - 1].height + place.height) / 2 + _APART if i else 0.0
        offsets.append(total)
    blocks = []  # [level, weight, number of places]
    for place, wish, offset in zip(column, wished, offsets):
        blocks.append([wish - offset, place.weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, u, m), (b, v, n) = blocks[-2:]
            blocks[-2:] = [[(a * u + b * v) / (u + v), u + v, m + n]]
    levels = [level for level, _, count in blocks for _ in range(count)]
    for place, level, offset in zip(column, levels, offsets):
        place.y = level + offset


def _widths(columns):
    x = 0.0
    for column in columns:
        width = max((p.width for p in column), default=0)
        for place in column:
            place.x = x + width / 2
            if not place.height:
                place.width = width  # an arrow crosses the whole column at one height
        x += width + _GAP


def _frame(label, members, everything):
    """Around the members and the arrows that pass between them."""
    first, last = min(p.column for p in members), max(p.column for p in members)
    inside = [p for p in everything if first <= p.column <= last]
    left, right = min(p.x - p.width / 2 for p in inside) - 12, max(p.x + p.width / 2 for p in inside) + 12
    right = max(right, left + _width(label) + 20)
    return left, min(p.y - p.height / 2 for p in inside) - 34, right, max(p.y + p.height / 2 for p in inside) + 14, label


# ---- SVG ----------------------------------------------------------------------------------------------------


def _frame_svg(left, top, right, bottom, label):
    return (f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" rx="10" '
            'fill="#f7f7f7" stroke="#999"/>'
            f'<text x="{left + 10:.1f}" y="{top + 18:.1f}" fill="#444" font-weight="bold">{escape(label)}</text>')


def _arrow_svg(route, drawn):
    """From where it leaves the arrows in `drawn`, pairs of places, to its end."""
    shared = next((i for i, pair in enumerate(zip(route, route[1:])) if pair not in drawn), 0)
    drawn.update(zip(route, route[1:]))
    start, end = route[shared], route[-1]
    x, y = start.x + start.width / 2, start.y
    path = f"M{x:.1f} {y:.1f}"
    for place in route[shared + 1:]:
        left = place.x - place.width / 2 - (2 if place is end else 0)
        middle = (x + left) / 2
        path += f"C{middle:.1f} {y:.1f} {middle:.1f} {place.y:.1f} {left:.1f} {place.y:.1f}"
        x, y = place.x + place.width / 2, place.y
        path += f"H{x:.1f}" if place is not end else ""
    return f'<path d="{path}" fill="none" stroke="#444" marker-end="url(#tip)"/>'


def _loop_svg(a, b, left, right, bottom, k):
    """From the state that goes out, round below, to the state that comes in."""
    out, back, below = right + 16 + 8 * k, left - 16 - 8 * k, bottom + 22 + 16 * k
    start, end, r = a.x + a.width / 2, b.x - b.width / 2 - 2, 8
    corners = [(start, a.y), (out, a.y), (out, below), (back, below), (back, b.y), (end, b.y)]
    path = f"M{start:.1f} {a.y:.1f}"
    for (x0, y0), (x1, y1), (x2, y2) in zip(corners, corners[1:], corners[2:]):
        path += f"L{x1 - _sign(x1 - x0) * r:.1f} {y1 - _sign(y1 - y0) * r:.1f}"
        path += f"Q{x1:.1f} {y1:.1f} {x1 + _sign(x2 - x1) * r:.1f} {y1 + _sign(y2 - y1) * r:.1f}"
    path += f"L{end:.1f} {b.y:.1f}"
    text = (f'<text x="{(left + right) / 2:.1f}" y="{below - 5:.1f}" text-anchor="middle" font-size="11" fill="{_BLUE}">'
            'next step</text>') if k == 0 else ""
    return (f'<path d="{path}" fill="none" stroke="{_BLUE}" stroke-width="1.5" stroke-dasharray="6 3" '
            f'marker-end="url(#back)"/>{text}')


def _sign(x):
    return (x > 0) - (x < 0)


def _box_svg(box, place, fill, stroke):
    left, top = place.x - place.width / 2, place.y - place.height / 2
    if box.kind == "parameter":
        w, h, c = place.width, place.height, 8
        shape = (f'<path d="M{left:.1f} {place.y:.1f}l{c} {-h / 2:.1f}h{w - 2 * c:.1f}l{c} {h / 2:.1f}'
                 f'l{-c} {h / 2:.1f}h{2 * c - w:.1f}z"')
    else:
        round_ = 4 if box.kind in ("op", "cell") else place.height / 2
        shape = (f'<rect x="{left:.1f}" y="{top:.1f}" width="{place.width:.1f}" height="{place.height:.1f}" '
                 f'rx="{round_:.1f}"')
    first = place.y - _LINE * (len(box.lines) - 1) / 2 + 4.2
    text = "".join(f'<text x="{place.x:.1f}" y="{first + _LINE * i:.1f}" text-anchor="middle">{escape(line)}</text>'
                   for i, line in enumerate(box.lines))
    return f'{shape} fill="{fill}" stroke="{stroke}"/>{text}'

"""The cells in careful NumPy: forward and backpropagation through time, derived and tuned by hand. The tables' measure.

Each function takes the params dict by keyword and returns ``(loss, gradients)`` with the same keys. What makes them
fast:

- the products with x, the weight gradients and the gradient of x are one matrix product for many steps, outside the
  loop;
- gates that share an input share a product; a product with a transposed weight of many rows reads a contiguous copy;
- in the loop nothing is allocated: the last argument of a call there is where it writes;
- sigmoid(z) = 1/2 + 1/2 tanh(z/2), with the inner 1/2 folded into the weights: the gates of a step share one tanh;
- factors of the backward pass that do not depend on the carried gradient are computed before its loop, many steps at
  once;
- "many steps" is a block that stays in the cache; cotangents of the gates overwrite the gates;
- constants are arrays (a Python number costs a conversion a call) of full shape (a broadcast costs a loop over rows).

The loss adds one to the gradient of every output. dh and dc are the gradients that travel back in time; a name with a
trailing underscore is one step of a stack.
"""

import numpy as np
from cells import EPSILON

dot, add, subtract, multiply, tanh, square = np.dot, np.add, np.subtract, np.multiply, np.tanh, np.square
BLOCK_BYTES = 1 << 18


def rows(a):
    """A stack of steps seen as one matrix: (T, B, n) to (T * B, n)."""
    return a.reshape(-1, a.shape[-1])


def blocks(steps, step_bytes):
    """Slices of time whose largest stack stays in the cache."""
    size = max(1, BLOCK_BYTES // step_bytes)
    return [slice(t, min(t + size, steps)) for t in range(0, steps, size)]


def transposed(weight, B):
    """The transpose for products of B rows; for a single row the view is as fast as a copy."""
    return weight.T if B == 1 else np.ascontiguousarray(weight.T)


def loss_of(ys, *finals):
    return ys.sum() + sum(final.sum() for final in finals)


def elman(W, U, b, h0, xs):
    (T, B, _), H, dtype = xs.shape, len(b), xs.dtype
    UT, one = transposed(U, B), np.ones((), dtype)
    hs, s = np.empty((T + 1, B, H), dtype), np.empty((B, H), dtype)
    hs[0], ys = h0, hs[1:]
    spans = blocks(T, ys[0].nbytes)
    for span in spans:
        h = ys[span]
        add(dot(rows(xs[span]), W, out=rows(h)), b, out=rows(h))
        for h_, h_next in zip(hs[span], h):
            dot(h_, U, s)
            add(h_next, s, h_next)
            tanh(h_next, h_next)

    dh, dz = np.ones((B, H), dtype), np.empty((T, B, H), dtype)
    for span in reversed(spans):
        slope = square(ys[span], out=dz[span])
        subtract(one, slope, out=slope)
        for dz_ in slope[::-1]:
            add(dh, one, dh)
            multiply(dh, dz_, dz_)
            dot(dz_, UT, dh)
    dz = rows(dz)
    return loss_of(ys, hs[-1]), dict(
        W=dot(rows(xs).T, dz), U=dot(rows(hs[:-1]).T, dz), b=dz.sum(0), h0=dh, xs=dot(dz, W.T).reshape(xs.shape))


def lstm(W, U, b, h0, c0, xs):
    (T, B, _), H, dtype = xs.shape, h0.shape[-1], xs.dtype
    half = np.full(4 * H, 0.5, dtype)
    half[2 * H:3 * H] = 1  # of i, f, g, o only g is a tanh
    halves, rests = np.tile(half, (B, 1)), np.tile(1 - half, (B, 1))
    W_half, U_half, b_half, UT, one = W * half, U * half, b * half, transposed(U, B), np.ones((), dtype)
    hs, cs = np.empty((T + 1, B, H), dtype), np.empty((T + 1, B, H), dtype)
    tanhs, gates = np.empty((T, B, H), dtype), np.empty((T, B, 4 * H), dtype)
    hs[0], cs[0], ys = h0, c0, hs[1:]
    s, m = np.empty((B, 4 * H), dtype), np.empty((B, H), dtype)
    spans = blocks(T, gates[0].nbytes)
    for span in spans:
        z = gates[span]
        add(dot(rows(xs[span]), W_half, out=rows(z)), b_half, out=rows(z))
        i, f, g, o = (z[..., k * H:(k + 1) * H] for k in range(4))
        for z_, i_, f_, g_, o_, tc_, h_, h_next, c_, c_next in zip(
                z, i, f, g, o, tanhs[span], hs[span], ys[span], cs[span], cs[1:][span]):
            dot(h_, U_half, s)
            add(z_, s, z_)
            tanh(z_, z_)
            multiply(z_, halves, z_)
            add(z_, rests, z_)
            multiply(f_, c_, c_next)
            multiply(i_, g_, m)
            add(c_next, m, c_next)
            tanh(c_next, tc_)
            multiply(o_, tc_, h_next)

    # dz of i, f, g is dc times a factor known before the loop; dz of o is dh times one. All overwrite the gates.
    dh, dc = np.ones((B, H), dtype), np.ones((B, H), dtype)
    buffers = np.empty((6, spans[0].stop, B, H), dtype)
    for span in reversed(spans):
        z, c, tc = gates[span], cs[span], tanhs[span]
        i, f, g, o = z_ifgo = [z[..., k * H:(k + 1) * H] for k in range(4)]
        di, df, dg, do, f_dc, dc_dh = buffers[:, :len(z)]
        f_dc[:] = f
        for gate, slope, other in ((i, di, g), (f_dc, df, c), (o, do, tc)):
            subtract(one, gate, slope)
            multiply(slope, gate, slope)
            multiply(slope, other, slope)
        for gate, slope, other in ((g, dg, i), (tc, dc_dh, o)):
            square(gate, slope)
            subtract(one, slope, slope)
            multiply(slope, other, slope)
        for dc_dh_, f_, di_, df_, dg_, do_, dz_, dz_i, dz_f, dz_g, dz_o in zip(
                *(a[::-1] for a in (dc_dh, f_dc, di, df, dg, do, z, *z_ifgo))):
            add(dh, one, dh)
            multiply(dh, dc_dh_, m)
            add(dc, m, dc)
            multiply(dc, di_, dz_i)
            multiply(dc, df_, dz_f)
            multiply(dc, dg_, dz_g)
            multiply(dh, do_, dz_o)
            dot(dz_, UT, dh)
            multiply(dc, f_, dc)
    dz = rows(gates)
    return loss_of(ys, hs[-1], cs[-1]), dict(
        W=dot(rows(xs).T, dz), U=dot(rows(hs[:-1]).T, dz), b=dz.sum(0), h0=dh, c0=dc, xs=dot(dz, W.T).reshape(xs.shape))


def gru(W, U, b, bn, h0, xs):
    (T, B, _), H, dtype = xs.shape, len(bn), xs.dtype
    fold = np.full(3 * H, 0.5, dtype)
    fold[2 * H:] = 1  # of r, z, n only n is a tanh
    W_half, U_half, b_half, UT = W * fold, U * fold, b * fold, transposed(U, B)
    half, one, bns = np.full((), 0.5, dtype), np.ones((), dtype), np.tile(bn, (B, 1))
    hs, gates, qs = np.empty((T + 1, B, H), dtype), np.empty((T, B, 3 * H), dtype), np.empty((T, B, H), dtype)
    hs[0], ys = h0, hs[1:]
    s, m = np.empty((B, 3 * H), dtype), np.empty((B, H), dtype)
    s_rz, s_n = s[:, :2 * H], s[:, 2 * H:]
    spans = blocks(T, gates[0].nbytes)
    for span in spans:
        a = gates[span]
        add(dot(rows(xs[span]), W_half, out=rows(a)), b_half, out=rows(a))
        rz, r, z, n = (a[..., k * H:stop * H] for k, stop in ((0, 2), (0, 1), (1, 2), (2, 3)))
        for rz_, r_, z_, n_, q_, h_, h_next in zip(rz, r, z, n, qs[span], hs[span], ys[span]):
            dot(h_, U_half, s)
            add(rz_, s_rz, rz_)
            tanh(rz_, rz_)
            multiply(rz_, half, rz_)
            add(rz_, half, rz_)
            add(s_n, bns, q_)
            multiply(r_, q_, m)
            add(n_, m, n_)
            tanh(n_, n_)
            subtract(h_, n_, m)
            multiply(z_, m, m)
            add(n_, m, h_next)

    # The cotangents of h U are dh times factors known before the loop; they overwrite the gates. Those of x W + b
    # differ in n.
    dh, da_n = np.ones((B, H), dtype), np.empty((T, B, H), dtype)
    buffers = np.empty((5, spans[0].stop, B, H), dtype)
    for span in reversed(spans):
        a = gates[span]
        r, z, n = a_rzn = [a[..., k * H:(k + 1) * H] for k in range(3)]
        dr, dz, dq, dn, z_dh = buffers[:, :len(a)]
        z_dh[:] = z
        square(n, dn)
        subtract(one, dn, dn)
        subtract(hs[span], n, dr)
        subtract(one, z_dh, dz)
        multiply(dn, dz, dn)
        multiply(dz, z_dh, dz)
        multiply(dz, dr, dz)
        multiply(dn, r, dq)
        subtract(one, r, dr)
        multiply(dr, dq, dr)
        multiply(dr, qs[span], dr)
        for z_, dr_, dz_, dq_, dh_, ds_, ds_r, ds_z, ds_n in zip(
                *(v[::-1] for v in (z_dh, dr, dz, dq, da_n[span], a, *a_rzn))):
            add(dh, one, dh_)
            multiply(dh_, dr_, ds_r)
            multiply(dh_, dz_, ds_z)
            multiply(dh_, dq_, ds_n)
            multiply(dh_, z_, m)
            dot(ds_, UT, dh)
            add(dh, m, dh)
        multiply(da_n[span], dn, da_n[span])
    ds, da_n = rows(gates), rows(da_n)
    da_rz, X, xs_grad = ds[:, :2 * H], rows(xs).T, dot(da_n, W[:, 2 * H:].T)
    xs_grad += dot(da_rz, W[:, :2 * H].T)
    db = ds.sum(0)
    return loss_of(ys, hs[-1]), dict(
        W=np.concatenate([dot(X, da_rz), dot(X, da_n)], 1), U=dot(rows(hs[:-1]).T, ds),
        b=np.concatenate([db[:2 * H], da_n.sum(0)]), bn=db[2 * H:], h0=dh, xs=xs_grad.reshape(xs.shape))


def mgu(Wf, Uf, bf, Wh, Uh, bh, h0, xs):
    (T, B, _), H, dtype = xs.shape, len(bf), xs.dtype
    W, b, Uf_half = np.concatenate([Wf * 0.5, Wh], 1), np.concatenate([bf * 0.5, bh]), Uf * 0.5
    UfT, UhT = transposed(Uf, B), transposed(Uh, B)
    half, one = np.full((), 0.5, dtype), np.ones((), dtype)
    hs, gates, fhs = np.empty((T + 1, B, H), dtype), np.empty((T, B, 2 * H), dtype), np.empty((T, B, H), dtype)
    hs[0], ys, s = h0, hs[1:], np.empty((B, H), dtype)
    spans = blocks(T, gates[0].nbytes)
    for span in spans:
        a = gates[span]
        add(dot(rows(xs[span]), W, out=rows(a)), b, out=rows(a))
        for f_, c_, fh_, h_, h_next in zip(a[..., :H], a[..., H:], fhs[span], hs[span], ys[span]):
            dot(h_, Uf_half, s)
            add(f_, s, f_)
            tanh(f_, f_)
            multiply(f_, half, f_)
            add(f_, half, f_)
            multiply(f_, h_, fh_)
            dot(fh_, Uh, s)
            add(c_, s, c_)
            tanh(c_, c_)
            subtract(c_, h_, s)
            multiply(f_, s, s)
            add(h_, s, h_next)

    # dz_c, dz_f and the elementwise part of the new dh are dh and d(f h) times factors known before the loop.
    dh, dfh, m = np.ones((B, H), dtype), np.empty((B, H), dtype), np.empty((B, H), dtype)
    buffers = np.empty((5, spans[0].stop, B, H), dtype)
    for span in reversed(spans):
        h, f, c = hs[span], gates[span, :, :H], gates[span, :, H:]
        dc_dh, df_dh, df_dfh, h_dh, h_dfh = buffers[:, :len(h)]
        h_dfh[:] = f
        subtract(one, h_dfh, h_dh)
        multiply(h_dfh, h_dh, df_dfh)
        subtract(c, h, df_dh)
        multiply(df_dh, df_dfh, df_dh)
        multiply(df_dfh, h, df_dfh)
        square(c, dc_dh)
        subtract(one, dc_dh, dc_dh)
        multiply(dc_dh, h_dfh, dc_dh)
        for dc_dh_, df_dh_, df_dfh_, h_dh_, h_dfh_, dz_f, dz_c in zip(
                *(v[::-1] for v in (dc_dh, df_dh, df_dfh, h_dh, h_dfh, f, c))):
            add(dh, one, dh)
            multiply(dh, dc_dh_, dz_c)
            dot(dz_c, UhT, dfh)
            multiply(dh, df_dh_, s)
            multiply(dfh, df_dfh_, m)
            add(s, m, dz_f)
            multiply(dh, h_dh_, s)
            multiply(dfh, h_dfh_, m)
            add(s, m, s)
            dot(dz_f, UfT, dh)
            add(dh, s, dh)
    dz = rows(gates)
    dW, db = dot(rows(xs).T, dz), dz.sum(0)
    return loss_of(ys, hs[-1]), dict(
        Wf=dW[:, :H], Uf=dot(rows(hs[:-1]).T, dz[:, :H]), bf=db[:H], Wh=dW[:, H:], Uh=dot(rows(fhs).T, dz[:, H:]),
        bh=db[H:], h0=dh, xs=dot(dz, np.concatenate([Wf, Wh], 1).T).reshape(xs.shape))


def lnlstm(W, U, b, ax, ah, ac, bc, h0, c0, xs):
    # Three steps of algebra first. The mean over 4H of h U is h times the mean column of U, so centring U centres every
    # product; a normalised v is sqrt(n) v / sqrt(v.v + n epsilon), so unit vectors are stored and sqrt(n) goes to the
    # scale; the backward pass of a unit vector u = v / r is (du - u (u.du)) / r.
    (T, B, _), H, dtype = xs.shape, len(ac), xs.dtype
    n, one = 4 * H, np.ones((), dtype)
    n_epsilon, h_epsilon = np.full((), n * EPSILON, dtype), np.full((), H * EPSILON, dtype)
    W, U = W - W.mean(1, keepdims=True), U - U.mean(1, keepdims=True)
    UT, ax_n, ah_n, ac_h = transposed(U, B), ax * n ** 0.5, ah * n ** 0.5, np.tile(ac * H ** 0.5, (B, 1))
    half = np.full(n, 0.5, dtype)
    half[2 * H:3 * H] = 1
    halves, rests, ahs, bcs = (np.tile(v, (B, 1)) for v in (half, 1 - half, ah_n, bc))
    ax_half, ahs_half, b_half, mean = ax_n * half, ahs * half, b * half, np.full((H, 1), 1 / H, dtype)
    hs, cs = np.empty((T + 1, B, H), dtype), np.empty((T + 1, B, H), dtype)
    units_c, tanhs = np.empty((T, B, H), dtype), np.empty((T, B, H), dtype)
    units_x, units_h, gates = np.empty((T, B, n), dtype), np.empty((T, B, n), dtype), np.empty((T, B, n), dtype)
    norms_x, norms_h, norms_c = (np.empty((T, B, 1), dtype) for _ in range(3))
    hs[0], cs[0], ys = h0, c0, hs[1:]
    s, m, v = np.empty((B, n), dtype), np.empty((B, H), dtype), np.empty((B, 1), dtype)
    spans = blocks(T, gates[0].nbytes)
    for span in spans:
        unit, norm, z = units_x[span], norms_x[span], gates[span]
        dot(rows(xs[span]), W, out=rows(unit))
        np.vecdot(unit, unit, out=norm[..., 0])
        np.sqrt(add(norm, n_epsilon, out=norm), out=norm)
        np.divide(unit, norm, out=unit)
        add(multiply(unit, ax_half, out=z), b_half, out=z)
        i, f, g, o = (z[..., k * H:(k + 1) * H] for k in range(4))
        for z_, i_, f_, g_, o_, u_, nh_, nh_flat, w_, nc_, nc_flat, tc_, h_, h_next, c_, c_next in zip(
                z, i, f, g, o, units_h[span], norms_h[span], norms_h[span, :, 0], units_c[span], norms_c[span],
                norms_c[span, :, 0], tanhs[span], hs[span], ys[span], cs[span], cs[1:][span]):
            dot(h_, U, u_)
            np.vecdot(u_, u_, nh_flat)
            add(nh_, n_epsilon, nh_)
            np.sqrt(nh_, nh_)
            np.divide(u_, nh_, u_)
            multiply(u_, ahs_half, s)
            add(z_, s, z_)
            tanh(z_, z_)
            multiply(z_, halves, z_)
            add(z_, rests, z_)
            multiply(f_, c_, c_next)
            multiply(i_, g_, m)
            add(c_next, m, c_next)
            dot(c_next, mean, v)
            subtract(c_next, v, w_)
            np.vecdot(w_, w_, nc_flat)
            add(nc_, h_epsilon, nc_)
            np.sqrt(nc_, nc_)
            np.divide(w_, nc_, w_)
            multiply(w_, ac_h, tc_)
            add(tc_, bcs, tc_)
            tanh(tc_, tc_)
            multiply(o_, tc_, h_next)

    dh, dc, dax, dah, dac, dbc = (np.zeros_like(a) for a in (h0, c0, ax, ah, ac, bc))
    dh[:], dc[:] = 1, 1
    dhs, v_flat = np.empty((T, B, H), dtype), v[:, 0]
    buffers, products = np.empty((6, spans[0].stop, B, H), dtype), np.empty((spans[0].stop, B, n), dtype)
    for span in reversed(spans):
        z, c, tc, unit_c, unit_x = gates[span], cs[span], tanhs[span], units_c[span], units_x[span]
        i, f, g, o = z_ifgo = [z[..., k * H:(k + 1) * H] for k in range(4)]
        di, df, dg, do, f_dc, dw_dh = buffers[:, :len(z)]
        product = products[:len(z)]
        f_dc[:] = f
        for gate, slope, other in ((i, di, g), (f_dc, df, c), (o, do, tc)):
            subtract(one, gate, slope)
            multiply(slope, gate, slope)
            multiply(slope, other, slope)
        for gate, slope, other in ((g, dg, i), (tc, tc, o)):
            square(gate, slope)
            subtract(one, slope, slope)
            multiply(slope, other, slope)
        multiply(tc, ac_h, dw_dh)
        np.divide(dw_dh, norms_c[span], dw_dh)
        for dh_, dw_, w_, f_, di_, df_, dg_, do_, dz_, dz_i, dz_f, dz_g, dz_o, u_, nh_, p_ in zip(
                *(a[::-1] for a in (dhs[span], dw_dh, unit_c, f_dc, di, df, dg, do, z, *z_ifgo,
                                    units_h[span], norms_h[span], product))):
            add(dh, one, dh_)
            multiply(dh_, dw_, dw_)
            np.vecdot(dw_, w_, v_flat)
            multiply(w_, v, m)
            subtract(dw_, m, m)
            dot(dw_, mean, v)
            subtract(m, v, m)
            add(dc, m, dc)
            multiply(dc, di_, dz_i)
            multiply(dc, df_, dz_f)
            multiply(dc, dg_, dz_g)
            multiply(dh_, do_, dz_o)
            multiply(dz_, u_, p_)
            dot(p_, ah_n, v_flat)
            multiply(u_, v, u_)
            multiply(dz_, ahs, s)
            subtract(s, u_, u_)
            np.divide(u_, nh_, u_)
            dot(u_, UT, dh)
            multiply(dc, f_, dc)
        dah += rows(product).sum(0)
        multiply(tc, dhs[span], out=tc)
        dbc += rows(tc).sum(0)
        dac += rows(multiply(tc, unit_c, out=tc)).sum(0)
        flat = rows(product)
        multiply(rows(gates[span]), rows(unit_x), out=flat)
        dax += flat.sum(0)
        multiply(unit_x, dot(flat, ax_n).reshape(-1, B, 1), out=unit_x)
        multiply(gates[span], ax_n, out=product)
        subtract(product, unit_x, out=unit_x)
        np.divide(unit_x, norms_x[span], out=unit_x)
    dx, du = rows(units_x), rows(units_h)
    dW, dU = dot(rows(xs).T, dx), dot(rows(hs[:-1]).T, du)
    dW -= dW.mean(1, keepdims=True)
    dU -= dU.mean(1, keepdims=True)
    return loss_of(ys, hs[-1], cs[-1]), dict(
        W=dW, U=dU, b=rows(gates).sum(0), ax=dax * dtype.type(n ** 0.5), ah=dah * dtype.type(n ** 0.5),
        ac=dac * dtype.type(H ** 0.5), bc=dbc, h0=dh, c0=dc, xs=dot(dx, W.T).reshape(xs.shape))


CELLS = dict(elman=elman, lstm=lstm, gru=gru, mgu=mgu, lnlstm=lnlstm)


def prepare(cell, p):
    return lambda: CELLS[cell](**p), lambda result: result

"""The same executor protocol on clusters that exist: Dask's distributed client and mpi4py's pool."""

import os
import subprocess
import sys
import warnings
from shutil import which

import numpy as np
import pytest
from test_parallel import averaged, case, same, summed

import tinygrad_rnn as tg

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def client():
    pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own, about ports and clocks
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster, Client(cluster) as client:
            yield client


def test_dask_equals_one_process(client):
    params, x, y = case()
    executor = client.get_executor()
    for loss in (summed, averaged):
        step = tg.parallel.value_and_grad(loss, executor)
        for _ in range(2):
            same(step(params, x, y), tg.value_and_grad(loss)(params, x, y))
    same(tg.parallel.value_and_grad(summed, executor, shards=5)(params, x, y), tg.value_and_grad(summed)(params, x, y))


def test_a_dask_worker_that_dies_is_not_counted_twice(client, tmp_path):
    marker = str(tmp_path / "died")

    def dies_once(p, x):
        import os

        if x[0] == 0 and not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return tg.sum(p * x)

    assert tg.parallel.value_and_grad(dies_once, client.get_executor(), shards=4, reduction="sum")(1.0, np.arange(8.0)) == (28.0, 28.0)


MPI = """
from mpi4py.futures import MPIPoolExecutor
import tinygrad_rnn as tg
from test_parallel import averaged, case, same, summed

if __name__ == "__main__":
    params, x, y = case()
    with MPIPoolExecutor() as pool:
        for loss in (summed, averaged):
            for shards in (None, 5):
                same(tg.parallel.value_and_grad(loss, pool, shards=shards)(params, x, y), tg.value_and_grad(loss)(params, x, y))
    print("equal")
"""


COMMUNICATOR = """
from mpi4py import MPI
from mpi4py.futures import MPICommExecutor
import numpy as np
import tinygrad_rnn as tg
from test_parallel import averaged, case, same, summed

with MPICommExecutor(MPI.COMM_WORLD, root=0) as pool:
    if pool is not None:  # on the others the block is the worker
        for B in (7, 2, 1, 0):
            params, x, y = case(B=B)
            for loss in (summed, averaged)[:2 if B else 1]:
                same(tg.parallel.value_and_grad(loss, pool)(params, x, y), tg.value_and_grad(loss)(params, x, y))
        print("equal")
"""


@pytest.mark.parametrize("text, options", [(MPI, ["-m", "mpi4py.futures"]), (COMMUNICATOR, [])], ids=["pool", "communicator"])
def test_mpi_equals_one_process(tmp_path, request, text, options):
    pytest.importorskip("mpi4py")
    if not (mpiexec := which("mpiexec", path=f"{sys.prefix}/bin") or which("mpiexec")):
        pytest.skip("no mpiexec on this machine")
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [mpiexec, "-n", "3", sys.executable, *options, str(script)]
    paths = os.pathsep.join([str(request.path.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0 and done.stdout.split() == ["equal"], done.stdout + done.stderr

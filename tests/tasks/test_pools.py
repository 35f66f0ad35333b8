"""A crew of Ray actors: batches shared out, the dead left out until they answer, the hopeless given up, the end an end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest
from ray import cloudpickle

from tasks import pools
from tasks.engines import connect, disconnect
from tasks.pools import Crew, Died, Gone, Line
from tests.test_survival import wait_for


class Double:
    """Doubles numbers; told 0, its process ends."""

    def __init__(self, wait: float = 0.0):
        self.wait = wait

    def compute(self, number: int) -> int:
        import os

        time.sleep(self.wait)
        if number == 0:
            os._exit(1)
        return 2 * number


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no such weights")

    def compute(self, number: int) -> int:
        return number


@pytest.fixture(scope="module", autouse=True)
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this module's own."""
    held = pytest.MonkeyPatch()
    held.delenv("RAY_ADDRESS", raising=False)
    connect()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    disconnect()
    held.undo()


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = Line(request.param)
    yield made
    made.close()


TWO = [Crew(Double, {}, 2), Crew(Double, {}, 2)]


@pytest.mark.parametrize("line", [TWO], indirect=True)
def test_batches_come_back_in_order_through_both_crews(line: Line):
    assert line.run(range(1, 30)) == [4 * k for k in range(1, 30)]
    assert [pool.load for pool in line.pools] == [[0, 0], [0, 0]]
    assert sum(pool.claim * pool.crew.count for pool in line.pools) <= pools._there("CPU")


@pytest.mark.parametrize("line", [TWO], indirect=True)
def test_a_death_costs_its_shard_and_the_crew_goes_on(line: Line):
    with pytest.raises(Died, match="a Double died with this shard in hand: "):
        line.run([1, 2, 0, 3, 4])
    assert [pool.load for pool in line.pools] == [[0, 0], [0, 0]]
    assert line.run([5, 6, 7]) == [20, 24, 28]


@pytest.mark.parametrize("line", [[Crew(Double, {}, 1), Crew(Broken, {}, 2)]], indirect=True)
def test_a_crew_that_cannot_be_made_is_told(line: Line):
    with pytest.raises(Gone, match="no Broken is left: .*no such weights"):
        line.run([1])
    assert line.pools[0].load == [0]


@pytest.mark.parametrize("line", [[Crew(Double, {"wait": 60.0}, 1)]], indirect=True)
def test_the_end_of_a_run_ends_those_who_wait(line: Line):
    """Ctrl-C: task threads that ask for a worker must not ask for ever."""
    found: list[BaseException] = []

    def shard() -> None:
        try:
            line.run([1, 2, 3])
            line.run([4])
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=shard)
    thread.start()
    wait_for(lambda: line.pools[0].load[0] > 0)  # it has been given something to do
    line.close()
    thread.join(60)
    assert not thread.is_alive() and found
    with pytest.raises(Gone, match="the run has ended"):
        line.run([5])


def test_gpus_that_are_not_there_are_told():
    if pools._there("GPU"):
        pytest.skip("there are GPUs here")
    with pytest.raises(ValueError, match="1 GPUs are asked for and 0 are there; set gpus_per_actor"):
        Line([Crew(Double, {}, 2, gpus=0.5)])

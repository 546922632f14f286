import threading
import time
from contextlib import ExitStack

import pytest

from services.serving.turns import MAX_WAITING, BusyError, Turns


def test_only_one_at_a_time_and_in_the_order_of_asking() -> None:
    turns, order, inside = Turns(), [], []

    def work(number: int) -> None:
        with turns.turn(10):
            inside.append(number)
            assert len(inside) == 1
            order.append(number)
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    with turns.turn():
        for number, thread in enumerate(threads):
            thread.start()
            while turns.waiting <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert order == list(range(6))


def test_a_turn_that_does_not_come_is_refused_and_forgotten() -> None:
    turns = Turns()
    with turns.turn():
        with pytest.raises(BusyError, match=r"busy for 0.05 s"), turns.turn(0.05):
            pass
        assert turns.waiting == 0
    with turns.turn(0.05):
        pass


def test_more_are_not_admitted_than_may_wait_and_one_is_at_work() -> None:
    turns = Turns()
    with ExitStack() as inside:
        for _ in range(MAX_WAITING + 1):
            inside.enter_context(turns.admitted())
        with pytest.raises(BusyError, match="are waiting already"), turns.admitted():
            pass
    with pytest.raises(RuntimeError, match="broken"), turns.admitted():
        raise RuntimeError("broken")
    with ExitStack() as inside:
        for _ in range(MAX_WAITING + 1):
            inside.enter_context(turns.admitted())


def test_an_exception_inside_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.turn():
        _ = 1 / 0
    with turns.turn(0.05):
        pass


def test_long_work_gives_way_between_its_pieces() -> None:
    turns, order = Turns(), []

    def short() -> None:
        with turns.turn(10):
            order.append("short")

    with turns.turn():
        order.append("long 1")
        turns.give_way()
        thread = threading.Thread(target=short)
        thread.start()
        while not turns.waiting:
            time.sleep(0.001)
        turns.give_way()
        order.append("long 2")
    thread.join(5)
    assert order == ["long 1", "short", "long 2"]

from __future__ import annotations

import re

import pytest

from raggym_env.retrieval.server.metrics import Board, Metrics


def test_processes_that_share_a_board_show_the_sums_of_all():
    memory = bytearray(Board.BYTES * 3)
    parts = [Metrics(Board(memory, 3, process)) for process in range(3)]
    for number, part in enumerate(parts, 1):
        part.requests[200].add(number)
        part.batches.observe(number)
        part.in_flight.add(2)
        part.in_flight.add(-1)
        part.refresh(waiting=10 * number, hanging=0, healthy=number != 2)
    pages = ["\n".join(part.lines()) for part in parts]
    assert pages[0] == pages[1] == pages[2]
    values = dict(re.findall(r"^(raggym_\S+) (\S+)$", pages[0], re.MULTILINE))
    assert values['raggym_requests_total{status="200"}'] == "6"
    assert (values["raggym_batch_queries_count"], values["raggym_batch_queries_sum"]) == ("3", "6.000000")
    assert (values["raggym_in_flight"], values["raggym_waiting_queries"]) == ("3", "60")
    assert parts[0].stuck.total == 1


def test_a_board_has_room_for_the_numbers_of_a_server_and_no_more():
    board = Board()
    Metrics(board)
    while board._taken < Board.BYTES // 8:
        board.number()
    with pytest.raises(IndexError, match="full"):
        board.number()

"""Who is connected, who is waited for, and who goes first."""

from __future__ import annotations

from stream_server.server.connection_table import ConnectionTable


def test_a_connection_is_overdue_until_its_request_has_come() -> None:
    table = ConnectionTable[str](10)
    table.add("a", 5.0)
    table.add("b", 15.0)
    assert table.overdue(4.0) == []
    assert table.overdue(6.0) == ["a"]
    table.serve("a")
    assert table.overdue(6.0) == []
    table.wait("a", 20.0)
    assert table.overdue(30.0) == ["b", "a"]


def test_the_one_waited_for_the_longest_makes_room() -> None:
    table = ConnectionTable[str](3)
    for name in "abc":
        table.add(name, 10.0)
    assert table.full
    table.wait("a", 20.0)
    assert table.longest_awaited() == "b"
    table.serve("b")
    assert table.longest_awaited() == "c"
    table.remove("c")
    assert not table.full
    assert table.longest_awaited() == "a"
    table.serve("a")
    assert table.longest_awaited() is None


def test_who_has_gone_is_not_waited_for() -> None:
    table = ConnectionTable[str](3)
    table.add("a", 10.0)
    table.remove("a")
    table.wait("a", 10.0)
    assert len(table) == 0
    assert table.longest_awaited() is None

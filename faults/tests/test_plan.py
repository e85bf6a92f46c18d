from collections import Counter

from faults.plan import Kind, Targets, draw

TARGETS = Targets(
    processes=["receiver", "nsqd"],
    links=["receiver to nsqd"],
    disks=["mariadb", "versitygw"],
    synced=["mariadb"],
    clocks=["receiver"],
)


def test_a_seed_repeats() -> None:
    assert draw(7, 50, TARGETS, list(Kind)) == draw(7, 50, TARGETS, list(Kind))
    assert draw(7, 50, TARGETS, list(Kind)) != draw(8, 50, TARGETS, list(Kind))


def test_fewer_faults_of_a_seed_are_the_first_ones_of_more() -> None:
    assert draw(7, 20, TARGETS, list(Kind))[:10] == draw(7, 10, TARGETS, list(Kind))


def test_every_kind_strikes_before_one_does_again() -> None:
    kinds = Counter(fault.kind for fault in draw(1, 3 * len(Kind), TARGETS, list(Kind)))
    assert kinds == dict.fromkeys(Kind, 3)


def test_every_process_is_struck() -> None:
    struck = {fault.target for fault in draw(1, 2, TARGETS, [Kind.KILL])}
    assert struck == {"receiver", "nsqd"}


def test_what_cannot_be_struck_here_is_left_out() -> None:
    bare = Targets(processes=["receiver"], links=[], disks=[], synced=[], clocks=[])
    kinds = {fault.kind for fault in draw(1, 40, bare, list(Kind))}
    assert kinds == {Kind.KILL, Kind.TERM, Kind.PAUSE, Kind.LONG_PAUSE}
    assert draw(1, 40, bare.only(["nsqd"]), list(Kind)) == []

"""Every model is in exactly one group."""

from __future__ import annotations

import pytest

from inference.model import DEFAULT_GROUP, ModelError, ModelSource
from inference.pool.groups import Group, resolve_groups


def sources(*names: str) -> list[ModelSource]:
    return [ModelSource(name, "package.module:Class") for name in names]


def test_models_that_nobody_put_into_a_group_share_one() -> None:
    assert resolve_groups(sources("a", "b"), 3, []) == [Group(DEFAULT_GROUP, ("a", "b"), 3)]


def test_the_rest_comes_first_and_in_its_order() -> None:
    own = Group("own", ("b",), 2)
    assert resolve_groups(sources("c", "b", "a"), 3, [own]) == [Group(DEFAULT_GROUP, ("c", "a"), 3), own]


def test_without_a_rest_there_is_no_group_for_it() -> None:
    groups = [Group("one", ("b", "a")), Group("two", ("c",), 4)]
    assert resolve_groups(sources("a", "b", "c"), 3, groups) == groups


def test_a_group_has_one_worker_if_it_is_not_said() -> None:
    assert Group("own", ("a",)).workers == 1


@pytest.mark.parametrize("names", [("a", "a"), ("a", "b", "a")])
def test_two_models_of_one_name_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="same name"):
        resolve_groups(sources(*names), 1, [])


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="group own has no model 'c'"):
        resolve_groups(sources("a", "b"), 1, [Group("own", ("a", "c"))])


@pytest.mark.parametrize(
    "groups",
    [[Group("one", ("a",)), Group("two", ("b", "a"))], [Group("one", ("a", "a"))]],
    ids=["in two groups", "twice in one"],
)
def test_a_model_that_is_named_twice_is_refused(groups: list[Group]) -> None:
    with pytest.raises(ModelError, match="model a is in two groups"):
        resolve_groups(sources("a", "b"), 1, groups)


@pytest.mark.parametrize(
    "groups",
    [[Group("one", ("a",)), Group("one", ("b",))], [Group(DEFAULT_GROUP, ("a",))]],
    ids=["twice", "default"],
)
def test_a_groups_name_is_its_own(groups: list[Group]) -> None:
    with pytest.raises(ModelError, match="names of their own"):
        resolve_groups(sources("a", "b"), 1, groups)


@pytest.mark.parametrize("group", [Group("own", ()), Group("own", ("a",), 0), Group("own", ("a",), -1)])
def test_a_group_without_models_or_workers_is_refused(group: Group) -> None:
    with pytest.raises(ModelError, match="group own needs a model and a worker"):
        resolve_groups(sources("a", "b"), 1, [group])


def test_workers_that_no_model_needs_may_be_none() -> None:
    own = Group("own", ("a",))
    assert resolve_groups(sources("a"), 0, [own]) == [own]
    with pytest.raises(ModelError, match="group default needs a model and a worker"):
        resolve_groups(sources("a", "b"), 0, [own])


def test_no_models_are_refused() -> None:
    with pytest.raises(ModelError, match="no model to run"):
        resolve_groups([], 1, [])

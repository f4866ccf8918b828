"""The one rule by which belief changes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.domain.payment import FACTS, Payment, Verdict, differences, judge
from tests.builders import make_payment


def test_a_payment_never_heard_of_is_new() -> None:
    assert judge(None, make_payment()) is Verdict.NEW


def test_a_higher_revision_wins_whenever_it_arrives() -> None:
    assert judge(make_payment(revision=1), make_payment(revision=2)) is Verdict.NEWER


@pytest.mark.fact("D12", "D13", "P2")
def test_an_older_revision_never_overwrites_a_newer_one() -> None:
    assert judge(make_payment(revision=3), make_payment(revision=2)) is Verdict.STALE


def test_the_same_revision_with_another_amount_is_a_conflict() -> None:
    known, seen = make_payment(), make_payment(amount=Decimal("11.00"))

    assert judge(known, seen) is Verdict.CONFLICT
    assert differences(known, seen) == ("amount",)


def test_what_one_side_leaves_out_is_no_contradiction() -> None:
    known, seen = make_payment(ecom_checkout_id=None), make_payment(type=None)

    assert judge(known, seen) is Verdict.SAME


def test_an_amount_written_with_other_zeros_is_the_same() -> None:
    assert judge(make_payment(amount=Decimal("10.50")), make_payment(amount=Decimal("10.5"))) is Verdict.SAME


def test_only_new_and_newer_change_what_we_believe() -> None:
    assert {verdict for verdict in Verdict if verdict.applies} == {Verdict.NEW, Verdict.NEWER}


def test_every_field_but_the_key_and_the_revision_is_a_fact() -> None:
    assert set(FACTS) == set(Payment.__struct_fields__) - {"instance_id", "payment_id", "revision"}


@given(st.data())
def test_any_order_and_any_duplication_ends_in_the_same_belief(data: st.DataObject) -> None:
    versions = [make_payment(revision=number, amount=Decimal(number)) for number in range(1, 6)]
    told = data.draw(st.permutations(versions + data.draw(st.lists(st.sampled_from(versions), max_size=5))))

    believed: Payment | None = None
    for seen in told:
        if judge(believed, seen).applies:
            believed = seen

    assert believed == versions[-1]

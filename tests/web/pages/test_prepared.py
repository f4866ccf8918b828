"""What takes longer than a page may: a worker reads it, and the page shows it when it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import text

from processor import jobs, prepared
from processor.domain.access import Reach, Role
from processor.prepared import Shelf, State, SumsQuestion, key_of
from processor.queue import QUEUE, JobQueue
from processor.store.report_views import REPORTS
from processor.store.screens import payments as payments_store
from processor.store.screens import reports as store
from processor.web.pages import answers
from processor.web.pages.screens import payments as payments_screen
from tests.web.pages.books import Books, Person, names_of
from tests.web.pages.test_reports import sheet, table, window

WAITS = 'hx-trigger="every 1s"'


def redis_of(books: Books) -> Redis:
    redis = books.shop.services.queue.redis
    assert redis is not None
    return redis


@pytest.fixture
def hasty(books: Books) -> Iterator[Person]:
    """An auditor whose pages read nothing themselves. Nothing waits before or after."""
    redis_of(books).flushdb()
    yield books.person(Role.AUDITOR, app=books.another_app(page_read_seconds=0.0))
    redis_of(books).flushdb()


def waiting(books: Books) -> list[Job]:
    """Jobs of the queue, those that come first before the others."""
    found: list[Job] = Queue(QUEUE, connection=redis_of(books), serializer=JSONSerializer).jobs
    return found


def work(books: Books) -> list[str]:
    """Do what waits, as a worker does; the keys of what was answered."""
    keys = []
    for job in waiting(books):
        assert job.func_name == "processor.jobs.prepare"
        jobs.run_prepare(books.shop.services, job.args[0])
        keys.append(job.args[0])
        job.delete()
    return keys


def plain(page: str) -> str:
    """A page without what is another each time."""
    page = re.sub(r"<time[^>]*>[^<]*</time>", "", page)
    return re.sub(r'(csrf_token" value="|after=)[^"&]*|\(<a href="[^"]*">read it anew</a>\)', "", page)


# -- Reports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["", "&columns=all"])
@pytest.mark.parametrize("view", sorted(REPORTS))
def test_what_a_worker_read_is_shown_like_what_a_page_reads(
    books: Books, hasty: Person, view: str, columns: str
) -> None:
    path = f"/reports/{view}{window(books)}{columns}"
    here = books.person(Role.AUDITOR, name=f"{view} {bool(columns)}").read(path)

    asked = hasty.read(path)
    again = hasty.read(path)
    [key] = work(books)
    shown = hasty.read(path)

    for page in (asked, again):
        assert WAITS in page
        assert "The report is being read, since" in page
        assert table(page) == []
    assert re.fullmatch(r"[0-9a-f]{40}", key)
    assert WAITS not in shown
    own = re.compile(r"\bperson \d+\b|" + re.escape(f"{view} {bool(columns)}"))
    assert own.sub("me", plain(shown)) == own.sub("me", plain(here))
    assert waiting(books) == []


def test_an_answer_is_shown_for_some_minutes_and_is_read_anew_when_asked(books: Books, hasty: Person) -> None:
    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    work(books)
    first = hasty.read(path)
    said = re.search(r'as of <time datetime="([^"]+)"', first)
    anew = re.search(r'href="([^"]+)">read it anew', first)
    assert said
    assert anew

    books.shop.pass_time(timedelta(seconds=61))
    kept = hasty.read(path)
    asked = hasty.read(anew[1].replace("&amp;", "&"))
    work(books)
    second = hasty.read(anew[1].replace("&amp;", "&"))

    assert said[0] in kept
    assert WAITS in asked
    assert WAITS not in second
    assert said[0] not in second
    ttl = redis_of(books).ttl(only(books, "prepared:*:answer"))
    assert 0 < int(str(ttl)) <= prepared.KEPT.total_seconds()


def only(books: Books, pattern: str) -> str:
    """The only key of Redis like this."""
    found: Any = redis_of(books).keys(pattern)
    [name] = found
    return str(name.decode())


@pytest.mark.parametrize(
    "after", ["", "yesterday", "2026-13-01", "2026-01-01T00:00:00", "2199-01-01T00:00:00Z", "\0", "9" * 5_000]
)
def test_a_moment_that_is_none_asks_for_nothing_new(books: Books, hasty: Person, after: str) -> None:
    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    work(books)

    answer = hasty.get(f"{path}&{urlencode({'after': after})}")

    assert answer.status_code == 200
    assert WAITS not in answer.text
    assert waiting(books) == []


def test_nobody_is_shown_what_was_read_for_who_sees_more(books: Books, hasty: Person) -> None:
    path = f"/reports/payments{window(books)}&columns=all"
    reach = Reach(frozenset({books.other_instance_id}))
    other = books.person(reach=reach, app=books.another_app(page_read_seconds=0.0))
    hasty.read(path)
    work(books)

    assert WAITS in other.read(path)
    work(books)
    page = other.read(path)

    assert [name for name in names_of(books) if name in page] == []
    assert {row[0] for row in table(page)} != set()
    assert len(table(hasty.read(path))) > len(table(page))


def test_what_is_quick_is_read_by_the_page(books: Books, hasty: Person) -> None:
    page = books.person().read(f"/reports/payments{window(books)}")

    assert table(page)
    assert waiting(books) == []


def test_a_page_gives_up_in_time_and_asks_a_worker(
    books: Books, hasty: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(connection: Any, *_given: Any, **_more: Any) -> Any:
        connection.execute(text("SELECT pg_sleep(60)"))

    monkeypatch.setattr(store, "totals", slow)
    person = books.person(app=books.another_app(page_read_seconds=0.05))
    page = person.read(f"/reports/payments{window(books)}")
    monkeypatch.undo()

    assert WAITS in page
    assert len(work(books)) == 1
    assert table(person.read(f"/reports/payments{window(books)}"))


def test_each_statement_has_what_is_left_of_the_time(books: Books) -> None:
    services = books.shop.services

    def read() -> None:
        with store.reading_within(services.database, "UTC", 0.2) as (connection, stage):
            for _ in range(100):
                stage()
                connection.execute(text("SELECT pg_sleep(0.05)"))

    with pytest.raises(store.TakesTooLong):
        read()


def test_without_redis_a_page_reads_itself(books: Books) -> None:
    app = books.another_app(page_read_seconds=0.0, has_redis=False)

    assert table(books.person(app=app).read(f"/reports/payments{window(books)}"))


@pytest.mark.parametrize("method", ["look", "ask", "may_go_in_front"])
def test_with_a_redis_that_is_away_a_page_reads_itself(
    books: Books, hasty: Person, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Shelf(Redis(port=1, socket_connect_timeout=0.1))
    right = getattr(Shelf, method)
    monkeypatch.setattr(Shelf, method, lambda _shelf, *given: right(away, *given))

    assert table(hasty.read(f"/reports/payments{window(books)}"))


def test_when_no_job_can_be_sent_a_page_reads_itself(
    books: Books, hasty: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/reports/payments{window(books)}"
    monkeypatch.setattr(JobQueue, "_enqueue", lambda *_given, **_more: False)

    pages = [hasty.read(path), hasty.read(path)]

    assert all(table(page) for page in pages)
    assert redis_of(books).keys("prepared:*") == []


@pytest.mark.parametrize(
    "kept",
    [
        *(b"{}", b"nonsense", b'{"as_of": 1}', b"\xff"),
        b'{"as_of":"2026-01-01T00:00:00Z","columns":["x"],"rows":[],"totals":[],"named":[],"noted":[]}',
        b'{"as_of":"2026-01-01T00:00:00Z","columns":[],"rows":[],"totals":[],"named":[],"noted":[]}',
    ],
)
def test_what_another_release_kept_is_not_shown(books: Books, hasty: Person, kept: bytes) -> None:
    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    [key] = work(books)
    redis_of(books).set(f"prepared:{key}:answer", kept)

    assert WAITS in hasty.read(path)
    work(books)
    assert table(hasty.read(path))


@pytest.mark.parametrize(
    "status",
    [
        *(b"{}", b"nonsense", b'{"state": "new", "at": "2026-01-01T00:00:00Z"}'),
        b'{"state": "waiting", "at": "2026-01-01T00:00:00"}',
    ],
)
def test_how_another_release_writes_that_a_question_stands_does_no_harm(
    books: Books, hasty: Person, status: bytes
) -> None:
    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    [key] = work(books)
    redis_of(books).set(f"prepared:{key}", status)

    assert WAITS in hasty.read(path)
    work(books)
    assert table(hasty.read(path))


@pytest.mark.parametrize("shape", ["moment without a zone", "number as text"])
def test_an_answer_of_another_shape_is_asked_for_anew(books: Books, hasty: Person, shape: str) -> None:
    path = f"/reports/reconciliation_summary{window(books)}"
    hasty.read(path)
    [key] = work(books)
    name = f"prepared:{key}:answer"
    kept = msgspec.json.decode(redis_of(books).get(name))  # type: ignore[arg-type]
    if shape == "number as text":
        kept["rows"] = [
            [f"{value}" if type(value) is int else value for value in row] for row in kept["rows"]
        ]
    else:
        kept["as_of"] = "2026-01-01T00:00:00"
    redis_of(books).set(name, msgspec.json.encode(kept))

    assert WAITS in hasty.read(f"{path}&after=2026-01-01T00:00:00Z")


def test_a_worker_whose_clock_is_behind_answers_what_is_read_anew(books: Books, hasty: Person) -> None:
    path = f"/reports/payments{window(books)}"
    anew = f"{path}&{urlencode({'after': books.shop.services.now().isoformat()})}"
    books.shop.pass_time(timedelta(seconds=1))
    hasty.read(anew)
    books.shop.pass_time(timedelta(seconds=-10))
    work(books)
    books.shop.pass_time(timedelta(seconds=11))

    assert table(hasty.read(anew))


def test_the_time_for_sums_is_shared_by_the_app_instances(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    reach = Reach(frozenset({books.instance_id, books.other_instance_id, *(uuid4() for _ in range(8))}))
    services, question = books.shop.services, SumsQuestion.of(payments_store.Filter(), reach)

    with pytest.raises(store.TakesTooLong):
        prepared.read_sums(services.database, "UTC", question, seconds=4.5, now=services.now())


def test_a_page_that_waits_keeps_no_session_alive(books: Books, hasty: Person) -> None:
    path, shop = f"/reports/payments{window(books)}", books.shop

    def newest() -> Any:
        return shop.rows("SELECT max(seen_at) AS at FROM sessions")[0].at

    hasty.read(path)
    books.shop.pass_time(timedelta(minutes=2))
    before = newest()
    for source in ("div#report", "section#sums", "section#totals"):
        assert hasty.get(path, headers={"HX-Request": "true", "HX-Source": source}).status_code == 200
    waited = newest()
    hasty.get(path, headers={"HX-Request": "true", "HX-Source": "a"})

    assert waited == before
    assert newest() > before


def test_a_worker_that_is_late_is_told_of(books: Books, hasty: Person) -> None:
    path = f"/reports/payments{window(books)}"
    early = hasty.read(path)
    books.shop.pass_time(answers.LATE + timedelta(seconds=1))

    late = hasty.read(path)

    assert "perhaps no worker runs" not in early
    assert "perhaps no worker runs" in late
    assert 'href="/jobs"' in late


def test_what_a_worker_was_not_through_with_says_what_to_do_and_may_be_asked_again(
    books: Books, hasty: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    monkeypatch.setattr(prepared, "WORKER_SECONDS", 0.0)
    [key] = work(books)
    answer = hasty.get(path)
    ttl = redis_of(books).ttl(f"prepared:{key}")

    assert answer.status_code == 503
    assert "not through in time" in answer.text
    assert WAITS not in answer.text
    assert 0 < int(str(ttl)) <= prepared.FAILURE_KEPT.total_seconds()
    redis_of(books).delete(f"prepared:{key}")
    assert WAITS in hasty.read(path)


def test_a_question_that_cannot_be_answered_fails_its_job_and_is_told(
    books: Books, hasty: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_given: Any, **_more: Any) -> Any:
        raise RuntimeError("a fault of ours")

    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    monkeypatch.setattr(store, "found", broken)
    with pytest.raises(RuntimeError):
        work(books)
    answer = hasty.get(path)

    assert answer.status_code == 503
    assert "failed jobs" in answer.text


def test_only_so_many_questions_wait(books: Books, hasty: Person) -> None:
    paths = [f"/reports/{view}{window(books)}" for view in sorted(REPORTS)[: prepared.WAITING_MAX + 1]]
    for path in paths[:-1]:
        assert WAITS in hasty.read(path)

    refused = hasty.get(paths[-1])
    again = hasty.read(paths[0])
    asked = len(waiting(books))
    work(books)
    taken = hasty.read(paths[-1])

    assert refused.status_code == 503
    assert "Try again in a moment" in refused.text
    assert WAITS in again
    assert asked == prepared.WAITING_MAX
    assert WAITS in taken


def test_a_page_that_still_waits_asks_again(books: Books, hasty: Person) -> None:
    """The job may be lost, or come late: then it finds the question that was asked again."""
    path = f"/reports/payments{window(books)}"
    hasty.read(path)
    books.shop.pass_time(prepared.ASKED_AGAIN - timedelta(seconds=5))
    hasty.read(path)
    before = len(waiting(books))
    books.shop.pass_time(timedelta(seconds=6))
    page = hasty.read(path)
    jobs_then = waiting(books)
    ttl = redis_of(books).ttl(f"prepared:{jobs_then[0].args[0]}")
    work(books)

    assert before == 1
    assert WAITS in page
    assert len(jobs_then) == 2
    assert len({job.args[0] for job in jobs_then}) == 1
    assert int(str(ttl)) > prepared.ASKED_AGAIN.total_seconds()
    assert table(hasty.read(path))


def test_a_page_is_given_time_between_two_statements(books: Books) -> None:
    """The limit of a statement is none of the time that Python takes."""
    database = books.shop.services.database
    with store.reading_within(database, "UTC", 5.0) as (connection, stage):
        stage()
        idle = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
        most = connection.execute(text("SHOW statement_timeout")).scalar_one()

    assert idle == "15s"
    assert str(most).endswith("ms")


def test_questions_nobody_answers_stand_in_the_way_for_two_minutes(books: Books, hasty: Person) -> None:
    paths = [f"/reports/{view}{window(books)}" for view in sorted(REPORTS)[: prepared.WAITING_MAX + 1]]
    for path in paths[:-1]:
        hasty.read(path)
    books.shop.pass_time(prepared.ASKED_AGAIN + timedelta(seconds=1))

    assert WAITS in hasty.read(paths[-1])


def test_questions_go_before_the_checks_until_they_took_their_share(books: Books, hasty: Person) -> None:
    services, shelf = books.shop.services, Shelf(redis_of(books))
    services.queue.enqueue_check(books.instance_id)
    hasty.read(f"/reports/payments{window(books)}")
    before = [job.func_name for job in waiting(books)]
    shelf.spend(prepared.IN_FRONT_SECONDS, services.now())
    hasty.read(f"/reports/runs{window(books)}")
    after = [job.description for job in waiting(books)]

    assert before == ["processor.jobs.prepare", "processor.jobs.check_links"]
    assert [str(one).split()[0] for one in after] == ["prepare", "check_links", "prepare"]
    assert not shelf.may_go_in_front(services.now() + timedelta(minutes=1))
    assert shelf.may_go_in_front(services.now() + timedelta(minutes=2))


def test_what_an_answer_took_is_counted(books: Books, hasty: Person) -> None:
    services = books.shop.services
    hasty.read(f"/reports/payments{window(books)}")
    work(books)

    name = only(books, "prepared:spent:*")
    assert float(str(redis_of(books).get(name), "ascii")) > 0  # type: ignore[arg-type]
    assert 0 < int(str(redis_of(books).ttl(name))) <= 180
    assert Shelf(redis_of(books)).may_go_in_front(services.now())


def test_a_job_whose_question_is_answered_or_gone_does_nothing(books: Books, hasty: Person) -> None:
    services, shelf = books.shop.services, Shelf(redis_of(books))
    hasty.read(f"/reports/payments{window(books)}")
    [key] = work(books)
    before = redis_of(books).get(f"prepared:{key}:answer")

    jobs.run_prepare(services, key)
    jobs.run_prepare(services, "0" * 40)

    assert redis_of(books).get(f"prepared:{key}:answer") == before
    assert shelf.look("0" * 40) is None


def test_a_question_of_another_release_is_left_alone(books: Books, hasty: Person) -> None:
    shelf = Shelf(redis_of(books))
    hasty.read(f"/reports/payments{window(books)}")
    [job] = waiting(books)
    key = job.args[0]
    kept = redis_of(books).get(f"prepared:{key}")
    assert isinstance(kept, bytes)
    redis_of(books).set(f"prepared:{key}", kept.replace(b'"type":"report"', b'"type":"riddle"'))

    jobs.run_prepare(books.shop.services, key)

    found = shelf.look(key)
    assert found is not None
    assert found[0].state is State.WAITING


def test_a_deleted_link_is_marked(fresh_books: Books) -> None:
    shop = fresh_books.shop
    link_id = shop.link("24.00", title="gone")
    shop.pay(link_id)
    shop.deliver()
    shop.check()
    path = f"/reports/control_totals{window(fresh_books)}"
    before = fresh_books.person().read(path)
    shop.rows("UPDATE payment_links SET missing_since = now() RETURNING 1")
    after = fresh_books.person().read(path)

    assert "</a>, deleted</td>" not in before
    assert "</a>, deleted</td>" in after


# -- Sums of payments --------------------------------------------------------------------------------


def part(person: Person, path: str) -> str:
    answer = person.get(path, headers={"HX-Request": "true"})
    assert answer.status_code == 200
    return answer.text


def figures(page: str) -> list[str]:
    found = re.search(r'<div class="figures">(.*?)</section>', page, re.DOTALL)
    assert found
    return re.findall(r">([^<>]*\d[^<>]*)<", re.sub(r"<p class=\"hint\">.*", "", found[1], flags=re.DOTALL))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page adds up one payment itself."""
    monkeypatch.setattr(payments_screen, "ADDED_MAX", 1)


@pytest.mark.parametrize("query", ["", "&currency=USD", "&state=matched&text=thing"])
@pytest.mark.usefixtures("few")
def test_all_payments_of_a_filter_are_added_up_by_a_worker(books: Books, hasty: Person, query: str) -> None:
    here = part(books.person(app=books.another_app(has_redis=False)), f"/payments/totals?all=1{query}")

    asked = part(hasty, f"/payments/totals?all=1{query}")
    page = hasty.read(f"/payments?totals=all{query}")
    assert len(work(books)) == 1
    shown = part(hasty, f"/payments/totals?all=1{query}")
    whole = hasty.read(f"/payments?totals=all{query}")

    for one in (asked, page):
        assert WAITS in one
        assert "A worker adds them up" in one
    assert WAITS not in shown
    assert figures(shown) == figures(here) == figures(whole)
    assert "All of them, as of" in shown


def test_payments_that_a_page_adds_up_wait_for_nobody(books: Books, hasty: Person) -> None:
    page = part(hasty, "/payments/totals?all=1")

    assert WAITS not in page
    assert "figures" in page
    assert waiting(books) == []


@pytest.mark.usefixtures("few")
def test_payments_are_added_up_anew_when_asked(books: Books, hasty: Person) -> None:
    part(hasty, "/payments/totals?all=1")
    work(books)
    shown = part(hasty, "/payments/totals?all=1")
    anew = re.search(r'hx-get="([^"]*after=[^"]*)"', shown)
    assert anew
    path = anew[1].replace("&amp;", "&")
    books.shop.pass_time(timedelta(seconds=1))

    asked = part(hasty, path)
    polled = re.search(r'hx-get="([^"]*)" ' + WAITS, asked)

    assert polled
    assert polled[1].replace("&amp;", "&") == path
    work(books)
    assert WAITS not in part(hasty, path)


@pytest.mark.usefixtures("few")
def test_sums_that_cannot_be_had_are_told(
    books: Books, hasty: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    part(hasty, "/payments/totals?all=1")
    monkeypatch.setattr(prepared, "WORKER_SECONDS", 0.0)
    work(books)

    assert "could not be added up" in part(hasty, "/payments/totals?all=1")
    assert "could not be added up" in hasty.read("/payments?totals=all")


@pytest.mark.usefixtures("few")
def test_while_too_many_wait_the_newest_are_added_up(books: Books, hasty: Person) -> None:
    for view in sorted(REPORTS)[: prepared.WAITING_MAX]:
        hasty.read(f"/reports/{view}{window(books)}")

    page = part(hasty, "/payments/totals?all=1")

    assert WAITS not in page
    assert "figures" in page


# -- What it is found by -----------------------------------------------------------------------------


def test_each_part_of_a_question_tells_it_from_others(books: Books) -> None:
    every, one = Reach(None), Reach(frozenset({books.instance_id}))
    both = Reach(frozenset({books.instance_id, books.other_instance_id}))
    by = payments_store.Filter()
    questions = [
        SumsQuestion.of(by, every),
        SumsQuestion.of(by, one),
        SumsQuestion.of(by, both),
        SumsQuestion.of(payments_store.Filter(currency="EUR"), every),
        SumsQuestion.of(payments_store.Filter(type="EUR"), every),
    ]

    assert len({key_of(question) for question in questions}) == len(questions)
    assert key_of(SumsQuestion.of(by, both)) == key_of(
        SumsQuestion.of(by, Reach(frozenset({books.other_instance_id, books.instance_id})))
    )


def test_csv_does_not_wait_for_the_page(books: Books, hasty: Person) -> None:
    path = f"/reports/payments{window(books)}"
    page = hasty.read(path)

    assert "Download CSV" in page
    assert sheet(hasty, f"/reports/payments/csv{window(books)}")

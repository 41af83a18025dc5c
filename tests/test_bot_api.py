"""The API as its own description promises it, by schemathesis; the secret is always right."""

from pathlib import Path

import pytest

from safety_gate.jobs.facts import Rules
from safety_gate.jobs.sqlite import open_sqlite
from safety_gate.page.routes import add_page
from tests.bot_door import POLICY, SECRET, opened
from tests.page_world import OPEN, filled

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

# Not "valid data is accepted": whether a name can be one depends on the kind of repository.
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
CASES = 30  # for each operation


def test_no_input_makes_a_server_error(tmp_path: Path) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    store = open_sqlite(tmp_path / "jobs.db", Rules(queue_bound=100_000))
    statuses: dict[int, int] = {}
    filled(store)
    with opened(store, page=lambda app: add_page(app, store, POLICY, OPEN)) as door:
        base = f"http://127.0.0.1:{door.port}"
        schema = schemathesis.openapi.from_dict(door.app.openapi())
        schema.config.update(base_url=base)
        for result in schema.get_all_operations():
            operation = result.ok()

            @given(case=operation.as_strategy())
            @settings(
                max_examples=CASES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def check(case: object) -> None:
                headers = {"X-Webhook-Secret": SECRET}
                response = case.call(headers=headers)  # type: ignore[attr-defined]
                statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                case.validate_response(response, checks=CHECKS)  # type: ignore[attr-defined]

            check()
    store.close_store()
    assert not [status for status in statuses if status >= 500]
    assert 202 in statuses

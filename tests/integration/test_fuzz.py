"""Whatever a sender posts: every callback ends in the ledger, and no stage falls over."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from coursewire.ledger.tables import OPEN, deliveries, receipts

SAMPLES = [
    json.loads(path.read_bytes())
    for path in sorted((Path(__file__).parents[2] / "schemas" / "samples").rglob("*.json"))
]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\x00", "2022-13-45 99:99:99", "yes", "9" * 400, "0001-01-01T00:00:00+23:59"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def paths(node, prefix=()):
    yield prefix
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, (*prefix, key))


@st.composite
def spoilt_samples(draw):
    """A documented body with some of its fields replaced, dropped or added."""
    body = json.loads(json.dumps(draw(st.sampled_from(SAMPLES))))
    for _ in range(draw(st.integers(0, 3))):
        *outer, last = draw(st.sampled_from([path for path in paths(body) if path] or [("event",)]))
        target = body
        for key in outer:
            target = target.get(key, {}) if isinstance(target, dict) else {}
        if isinstance(target, dict):
            if draw(st.booleans()):
                target[last] = draw(values)
            else:
                target.pop(last, None)
    return json.dumps(body).encode("utf-8", "surrogatepass")


bodies = st.lists(
    spoilt_samples() | st.binary() | values.map(lambda value: json.dumps(value).encode()), max_size=8
)


def test_every_body_ends_in_the_ledger(make_pipeline):
    handlers = {"audit": {}, "progress": {}, "certificates": {}, "notifications": {}}
    pipeline = make_pipeline(handlers)
    sent = [0]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(bodies, st.sampled_from(["chalk", "toolzz"]))
    def run(posted, source):
        pipeline.append(*posted, source=source)
        sent[0] += len(posted)
        pipeline.ingest()
        pipeline.deliver()
        assert pipeline.ctx.inbox.depth().waiting == 0

    run()
    assert pipeline.rows(select(func.count()).select_from(receipts))[0][0] == sent[0]
    pipeline.deliver()
    left = select(deliveries).where(deliveries.c.state.in_((*OPEN, "dead")))
    assert pipeline.rows(left) == []

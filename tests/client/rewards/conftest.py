"""A reward server before a scripted server that scores."""

import threading

import pytest

from ma_agiqa_client import Retry, Scorer
from ma_agiqa_client.rewards._server import RewardServer


@pytest.fixture
def serve(scripted):
    """Starts reward servers and stops them at the end."""
    running = []

    def start(url=scripted.url, host="127.0.0.1", **options):
        scorer = Scorer(url, timeout_s=30, retry=Retry(budget_s=0, connect_budget_s=0.5))
        server = RewardServer(host, 0, scorer, **options)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread, scorer))
        return server

    yield start
    for server, _, scorer in running:
        server.stop()
        scorer.close()
    for _, thread, _ in running:
        thread.join()

"""The first push on an empty cluster makes all of it run."""

from e2e.client import Client, assert_recognised
from e2e.gitops.delivery import Delivery
from e2e.gitops.flux import LAYERS
from services.local.samples import EILEEN


def test_the_first_push_fills_an_empty_cluster(delivery: Delivery) -> None:
    print(f"from the first push to all ready: {delivery.first_push_seconds:.0f} s")
    states = delivery.flux.wait_ready(delivery.repository.revision, 60)
    assert {"facestack", *LAYERS} <= states.keys()
    delivery.cluster.wait_ready()
    client = Client(delivery.cluster)
    client.enrol()
    assert_recognised(client.wait_final(client.upload(client.picture(EILEEN))), EILEEN)

import pytest

from services.common.cross_site import is_cross_site


@pytest.mark.parametrize(
    ("headers", "cross"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "http://page:80"}, True),
        ({"origin": "http://page:80"}, False),
        ({"origin": "https://page:80"}, False),
        ({"origin": "http://page"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "http://page:80.evil.example"}, True),
        ({"origin": "http://["}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
    ],
)
def test_only_what_another_site_sends_is_cross_site(headers: dict[str, str], cross: bool) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    for method in ("POST", "DELETE", "PUT"):
        scope = {"method": method, "headers": [(b"host", b"page:80"), *pairs]}
        assert is_cross_site(scope) is cross
    assert is_cross_site({"method": "GET", "headers": pairs}) is False

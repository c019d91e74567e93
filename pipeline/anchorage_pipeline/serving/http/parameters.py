"""Names of query parameters: unknown ones are an error, since a search without its mistyped filter would mislead."""

from fastapi import Request

from anchorage_pipeline.serving.http.problems import Fault, RequestError


async def known_parameters(request: Request) -> None:
    """Check the names of the query parameters of a request.

    Raises:
        RequestError: `E_REQUEST_FIELDS`, for those that the route does not have.
    """
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        expected = f"one of {', '.join(sorted(known))}" if known else "none"
        faults = [Fault(at=f"query.{name}"[:200], code="E_REQUEST_FIELDS", message="Unknown") for name in unknown]
        raise RequestError(
            "E_REQUEST_FIELDS", f"Expected as query parameters: {expected}. Received: {unknown[0]!r:.200}", faults
        )

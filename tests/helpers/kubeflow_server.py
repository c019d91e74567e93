"""A small Kubeflow Pipelines server: the part of its v2beta1 REST API that kfp 2.16's client calls for a deployment."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from http_servers import answering

_PREFIX = "/apis/v2beta1/"


class Store:
    """What the server holds, by kind and id, and the requests that it answered."""

    def __init__(self):
        self.pipelines, self.versions, self.experiments, self.recurringruns, self.runs = {}, {}, {}, {}, {}
        self.requests = []
        self.refuse = None  # (status, message) for every request
        self.page = 2  # items per page, so that clients must follow pages
        self.break_after = None  # number of requests after which the connection is closed without an answer
        self._count = 0

    def new(self, kind, document):
        self._count += 1
        created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=self._count)
        made = {**document, kind: f"id-{self._count}", "created_at": created.isoformat().replace("+00:00", "Z")}
        return made[kind], made


class Refused(Exception):  # noqa: N818
    pass


class _Handler(BaseHTTPRequestHandler):
    store: Store

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_DELETE(self):
        self._answer("DELETE")

    def _answer(self, method):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        store = self.store
        store.requests.append((method, url.path.removeprefix(_PREFIX), self.headers.get("Authorization")))
        if store.break_after is not None:
            store.break_after -= 1
            if store.break_after < 0:
                self.close_connection = True
                return
        status, document = 200, {}
        try:
            if store.refuse:
                raise Refused(*store.refuse)
            parts = url.path.removeprefix(_PREFIX).split("/")
            document = self._route(method, parts, query, body) or {}
        except Refused as error:
            status, document = error.args[0], {"code": 5, "message": error.args[1]}
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, method, parts, query, body):
        store = self.store
        match method, parts:
            case "GET", ["healthz"]:
                return {"multi_user": False}
            case "GET", ["pipelines"]:
                return self._page("pipelines", store.pipelines, query)
            case "POST", ["pipelines"]:
                return self._create(store.pipelines, "pipeline_id", json.loads(body), unique=True)
            case "GET", ["pipelines", pipeline, "versions"]:
                mine = {key: each for key, each in store.versions.items() if each["pipeline_id"] == pipeline}
                return self._page("pipeline_versions", mine, query)
            case "POST", ["pipelines", "upload_version"]:
                self._need(store.pipelines, query["pipelineid"])
                start = body.index(b"\r\n\r\n") + 4
                spec = body[start : body.index(b"\r\n--", start)].decode()
                document = {"display_name": query["name"], "pipeline_id": query["pipelineid"], "spec": spec}
                made = self._create(store.versions, "pipeline_version_id", document, unique=True)
                return {key: value for key, value in made.items() if key != "spec"}
            case "GET", ["experiments"]:
                return self._page("experiments", store.experiments, query)
            case "POST", ["experiments"]:
                return self._create(store.experiments, "experiment_id", json.loads(body), unique=True)
            case "GET", ["recurringruns"]:
                mine = store.recurringruns
                if "experiment_id" in query:
                    wanted = query["experiment_id"]
                    mine = {key: each for key, each in mine.items() if each["experiment_id"] == wanted}
                return self._page("recurringRuns", mine, query)
            case "POST", ["recurringruns"]:
                return self._create_schedule(json.loads(body))
            case "POST", ["recurringruns", name] if name.endswith((":enable", ":disable")):
                id_, _, verb = name.partition(":")
                self._need(store.recurringruns, id_)
                store.recurringruns[id_] |= {"mode": verb.upper(), "status": f"{verb.upper()}D"}
                return None
            case "DELETE", ["recurringruns", id_]:
                self._need(store.recurringruns, id_)
                del store.recurringruns[id_]
                return None
            case "POST", ["runs"]:
                document = json.loads(body)
                self._check_reference(document)
                return self._create(store.runs, "run_id", document)
        raise Refused(404, f"no such route: {method} {'/'.join(parts)}")

    def _create(self, kept, key, document, *, unique=False):
        name = document.get("display_name")
        if unique and any(
            each["display_name"] == name and each.get("pipeline_id") == document.get("pipeline_id")
            for each in kept.values()
            if key != "pipeline_id" or each["display_name"] == name
        ):
            raise Refused(409, f"{name} already exists")
        id_, made = self.store.new(key, document)
        kept[id_] = made
        return made

    def _create_schedule(self, document):
        self._check_reference(document)
        self._need(self.store.experiments, document["experiment_id"])
        trigger = document["trigger"]
        if ("cron_schedule" in trigger) == ("periodic_schedule" in trigger):
            raise Refused(400, "one trigger expected")
        if "cron_schedule" in trigger and len(trigger["cron_schedule"]["cron"].split()) not in {5, 6}:
            raise Refused(400, "Schedule cron is not supported")
        if not 1 <= int(document.get("max_concurrency", 0)) <= 10:
            raise Refused(400, "The max concurrency is out of range. Support 1-10")
        document |= {"status": "ENABLED" if document["mode"] == "ENABLE" else "DISABLED"}
        return self._create(self.store.recurringruns, "recurring_run_id", document)

    def _check_reference(self, document):
        version = document["pipeline_version_reference"]["pipeline_version_id"]
        self._need(self.store.versions, version)

    def _need(self, kept, id_):
        if id_ not in kept:
            raise Refused(404, f"{id_} not found")

    def _page(self, name, kept, query):
        items = list(kept.values())
        if "filter" in query:
            for predicate in json.loads(query["filter"])["predicates"]:
                assert predicate["operation"] in (1, "EQUALS")
                wanted = predicate.get("stringValue", predicate.get("string_value"))
                items = [each for each in items if each[predicate["key"]] == wanted]
        if query.get("sort_by", "").endswith("desc"):
            items.reverse()
        start = int(query.get("page_token") or 0)
        shown = items[start : start + self.store.page]
        more = {"next_page_token": str(start + len(shown))} if start + len(shown) < len(items) else {}
        return {name: [{key: value for key, value in each.items() if key != "spec"} for each in shown], **more}


@contextmanager
def serve_kubeflow():
    """The address of a running server and its store."""
    store = Store()
    handler = type("Handler", (_Handler,), {"store": store})
    with answering(handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", store

"""A Hub of our own on this machine: repositories in memory behind the endpoints that `huggingface_hub` calls to create,
commit and read them. Large files go by LFS: clients have xet switched off."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml
from huggingface_hub import constants

TOKEN = "hf_aTokenThatNobodyMaySee"
LARGE = (".safetensors", ".onnx", ".data", ".png")  # what goes by LFS
KINDS = {"models": "", "spaces": "spaces/"}


@dataclass
class Repository:
    """Commits, oldest first: hash -> path -> content."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[name] = files
        return name

    def resolve(self, revision: str) -> str | None:
        revision = self.head if revision == "main" else revision
        return revision if revision in self.commits else None


class LocalHub(ThreadingHTTPServer):
    """`faults(method, path)` says with which status a request fails, None for none, `instead(method, path)` what is answered
    in its place; `requests` are those that came."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # of LFS, by SHA-256
        self.faults = lambda method, path: None
        self.instead = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def model(self, name: str) -> Repository | None:
        return self.repositories.get(("models", name))

    def space(self, name: str) -> Repository | None:
        return self.repositories.get(("spaces", name))

    def create(self, name: str, files: dict[str, bytes], private: bool = False, kind: str = "models") -> Repository:
        repository = Repository(private)
        repository.commit({".gitattributes": b"*.safetensors filter=lfs\n"} | files)
        self.repositories[kind, name] = repository
        return repository

    def environment(self, home) -> dict[str, str]:
        """For a process whose Hub this is."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip


class Refused(Exception):
    """A status, and the Hub's name of what is wrong."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.requests.append((self.command, path))
            try:
                if (status := self.server.faults(self.command, path)) is not None:
                    raise Refused(status, "a fault of the test's")
                if (answer := self.server.instead(self.command, path)) is not None:
                    return self._answer(answer)
                for pattern, method, action in ROUTES:
                    if (self.command in method) and (found := re.fullmatch(pattern, path)):
                        return action(self, body, *found.groups())
                raise Refused(501, f"no such endpoint here: {self.command} {path}")
            except Refused as refusal:
                status, message = refusal.args
                self._answer({"error": message}, status, {"X-Error-Code": message, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _answer(self, content, status: int = 200, headers: dict | None = None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _may_write(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.server.repositories.get((kind, name))
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise Refused(404, "RepoNotFound")
        return found

    def _at(self, kind: str, name: str, revision: str) -> tuple[Repository, str]:
        repository = self._repository(kind, name)
        if (commit := repository.resolve(revision)) is None:
            raise Refused(404, "RevisionNotFound")
        return repository, commit

    def create(self, body):
        self._may_write()
        asked = json.loads(body)
        kind, name = f"{asked.get('type', 'model')}s", f"{asked.get('organization')}/{asked['name']}"
        if (kind, name) in self.server.repositories:
            raise Refused(409, "there is one of that name")
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.create(name, {}, bool(private), kind)
        self._answer({"url": f"{self.server.url}/{KINDS[kind]}{name}", "id": "1", "name": name})

    def delete(self, body):
        self._may_write()
        asked = json.loads(body)
        name = f"{asked.get('organization')}/{asked['name']}"
        del self.server.repositories[f"{asked.get('type', 'model')}s", name]
        self._answer({})

    def validate(self, body):
        content = json.loads(body)["content"]
        header = yaml.safe_load(content.split("---")[1])
        wrong = [] if isinstance(header, dict) else [{"message": "no mapping"}]
        self._answer({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def info(self, body, kind, name, revision="main"):
        repository, commit = self._at(kind, name, revision or "main")
        files = repository.commits[commit]
        header = re.match(rb"---\n(.*?)\n---", files.get("README.md", b""), re.DOTALL)
        card = yaml.safe_load(header[1]) if header else None
        siblings = [{"rfilename": path} for path in files]
        self._answer(
            {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": repository.private, "tags": [],
             "downloads": 0, "likes": 0, "siblings": siblings, "cardData": card}
        )  # fmt: skip

    def tree(self, body, kind, name, revision, folder):
        repository, commit = self._at(kind, name, revision)
        entries = []
        for path, content in repository.commits[commit].items():
            if path.startswith(folder or ""):
                entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                if path.endswith(LARGE):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
                entries.append(entry)
        self._answer(entries)

    def preupload(self, body, kind, name, revision):
        self._may_write()
        self._at(kind, name, revision)
        files = json.loads(body)["files"]
        modes = {file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular" for file in files}
        self._answer(
            {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}
        )

    def batch(self, body, prefix, name):
        self._may_write()
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}", "header": {}}}}
            for entry in json.loads(body)["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self._answer({})

    def commit(self, body, kind, name, revision):
        self._may_write()
        repository, head = self._at(kind, name, revision)
        files = dict(repository.files)
        for line in body.decode().splitlines():
            entry = json.loads(line)
            what, value = entry["key"], entry["value"]
            if what == "header":
                if value.get("parentCommit") not in (None, head):
                    raise Refused(412, "a commit has happened since")
            elif what == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif what == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif what == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(400, f"there is no {value['path']}")
            else:
                raise Refused(400, f"unknown operation {what}")
        commit = repository.commit(files)
        self._answer({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit})

    def resolve(self, body, prefix, name, revision, path):
        kind = "spaces" if prefix else "models"
        repository, commit = self._at(kind, name, revision)
        content = repository.commits[commit].get(path)
        if content is None:
            raise Refused(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self._answer(content, 200, headers | {"Content-Type": "application/octet-stream"})


ID = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"/api/repos/create", "POST", Handler.create),
    (r"/api/repos/delete", "DELETE", Handler.delete),
    (r"/api/validate-yaml", "POST", Handler.validate),
    (rf"/api/(models|spaces)/{ID}/preupload/(.+)", "POST", Handler.preupload),
    (rf"/api/(models|spaces)/{ID}/commit/(.+)", "POST", Handler.commit),
    (rf"/api/(models|spaces)/{ID}/tree/([^/]+)(?:/(.*))?", "GET", Handler.tree),
    (rf"/api/(models|spaces)/{ID}(?:/revision/(.+))?", "GET", Handler.info),
    (rf"/(spaces/)?{ID}\.git/info/lfs/objects/batch", "POST", Handler.batch),
    (r"/lfs/(\w+)", "PUT", Handler.put),
    (rf"/(spaces/)?{ID}/resolve/([^/]+)/(.+)", "GET HEAD", Handler.resolve),
)


@contextmanager
def local_hub(monkeypatch):
    """A Hub that this process talks to until the block ends, logged in."""
    server = LocalHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        yield server
    server.shutdown()
    server.server_close()

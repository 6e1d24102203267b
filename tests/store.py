"""A real S3 server on loopback, and what it was asked for."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medspark.errors import MedsparkError
from medspark.spark.guard import guarded

BUCKET, OTHER_BUCKET = "archive", "another"
_ADMIN = {"aws_access_key_id": "admin", "aws_secret_access_key": "admin"}


@dataclass
class Store:
    """A server: its address, a client of it, and the log of its requests."""

    endpoint: str
    client: Any
    log: Path

    def environment(self, key="reader", secret="a-secret-of-the-tests"):  # noqa: S107 - the server takes any
        """Return the variables that lead to the server."""
        names = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1"}
        return names | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}

    def put(self, files, bucket=BUCKET):
        """Write objects: {key: content}."""
        for key, content in files.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def delete(self, *keys, bucket=BUCKET):
        for key in keys:
            self.client.delete_object(Bucket=bucket, Key=key)

    def requests(self):
        """Return the methods and targets of all requests so far, oldest first."""
        return re.findall(r'"(?:\x1b\[\d+m)*((?:GET|HEAD|PUT|POST|DELETE) .*?) HTTP/1', self.log.read_text("utf-8"))

    def allow(self, user, *, but):
        """Ask every request for its signature from now on; return a key and secret that may do all but read a key."""
        import boto3

        iam = boto3.client("iam", endpoint_url=self.endpoint, region_name="us-east-1", **_ADMIN)
        iam.create_user(UserName=user)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        may = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        may_not = {"Effect": "Deny", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/{but}"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [may, may_not]})
        iam.put_user_policy(UserName=user, PolicyName="reader", PolicyDocument=policy)
        now = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(now).close()  # noqa: S310
        user = key["AccessKeyId"], key["SecretAccessKey"]
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=user[0],
            aws_secret_access_key=user[1],
        )
        return user


@contextmanager
def serving(directory, tools):
    """Run a server with two empty buckets, by the Python among the tools; its log lies in the directory."""
    (packages,) = map(str, tools.parent.glob("lib/python*/site-packages"))
    sys.path.append(packages)  # after ours, which come first also where both have a package
    import boto3

    log = Path(directory) / "server.log"
    command = [str(tools / "python"), "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "NO_COLOR": "1"})
    try:
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text("utf-8"))):
            assert server.poll() is None, log.read_text("utf-8")
            time.sleep(0.05)
        client = boto3.client("s3", endpoint_url=address[0], region_name="us-east-1", **_ADMIN)
        for bucket in (BUCKET, OTHER_BUCKET):
            client.create_bucket(Bucket=bucket)
        yield Store(address[0], client, log)
    finally:
        server.terminate()
        server.wait()
        sys.path.remove(packages)


def outcome(question):
    """Return ("", what a function returns) or (error, message) of medspark."""
    function, args, options = question
    try:
        return "", function(*args, **options)
    except MedsparkError as error:
        return type(error).__name__, str(error)


def away(function, *args, **options):
    """Return the outcome of a function in a child: who has used a store must not fork, and the tests do."""
    (found,) = guarded(outcome, [(function, args, options)], seconds=60, memory_mb=4096)
    return found


def answer(function, *args, **options):
    """Return what a function returns in a child."""
    error, found = away(function, *args, **options)
    assert not error, found
    return found


def error(function, *args, **options):
    """Return the name and the message of the error that a function raises in a child."""
    kind, message = away(function, *args, **options)
    assert kind, message
    return kind, message


APART = """
import json, sys
from importlib import import_module
from medspark.errors import MedsparkError

places, module, name, args, options = map(json.loads, sys.argv[1:])
sys.path += places
try:
    print(json.dumps(["", getattr(import_module(module), name)(*args, **options)]))
except MedsparkError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def apart(store, function, *args, **options):
    """Return the outcome of a function in a process that was not forked: delta-rs bears that no more than a client."""
    places = [path for path in sys.path if "tests" in path]
    question = (places, function.__module__, function.__name__, args, options)
    command = [sys.executable, "-c", APART, *map(json.dumps, question)]
    told = subprocess.run(command, env=os.environ | store.environment(), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return tuple(json.loads(told.stdout))

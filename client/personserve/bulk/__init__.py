"""Archives of images and videos, answered once (the extra `bulk`: Ray Data, PyArrow).

    from functools import partial
    from personserve import Client
    from personserve.bulk import answer_archive, read_answers

    outcome = answer_archive(["crops/"], "answers", partial(Client, address))
    table = read_answers("answers")  # a pyarrow.Table, one row for each person

`answer_archive` splits the sources into batches of small items. Ray Data hands them to
workers, each of which reads, cuts and asks, and writes the answers of a batch as one
Parquet file; only counts return to the caller. A worker asks a `Client`: of a server,
or of `open_deployed_client`, which runs a built model repository in the worker.
"""

from personserve.bulk.archive import Outcome as Outcome
from personserve.bulk.archive import answer_archive as answer_archive
from personserve.bulk.cluster import Cluster as Cluster
from personserve.bulk.deployed import DeployedTransport as DeployedTransport
from personserve.bulk.deployed import open_deployed_client as open_deployed_client
from personserve.bulk.folder import read_answers as read_answers
from personserve.bulk.folder import read_dead_letters as read_dead_letters
from personserve.bulk.identities import build_gallery as build_gallery
from personserve.bulk.identities import find_identities as find_identities
from personserve.bulk.items import Item as Item

__all__ = [
    "Cluster",
    "DeployedTransport",
    "Item",
    "Outcome",
    "answer_archive",
    "build_gallery",
    "find_identities",
    "open_deployed_client",
    "read_answers",
    "read_dead_letters",
]

"""Folders on a disk or in an object store; schemas, ids, manifests, shards and the life of an artifact."""

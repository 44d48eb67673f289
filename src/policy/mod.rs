//! What may leave: hosts, paths, and the rules of `policy.toml`. This room
//! judges; it opens no socket and holds no secret.

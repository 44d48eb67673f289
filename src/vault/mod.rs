//! Secrets at rest: the records, the master key that seals them, and the
//! certificate authority's key.

//! What runs share: rate counters, approvals and grants, in one SQLite file.

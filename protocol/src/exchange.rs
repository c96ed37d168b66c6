//! Which message may follow which, for both ends.

//! Makes tars for tests.

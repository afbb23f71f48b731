//! Messaging backends.

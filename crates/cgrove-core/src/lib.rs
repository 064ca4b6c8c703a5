//! cgrove

//! The controllers as ledgers: every limit at its edge, every errno, and that
//! what was charged comes off again at every level.

#![cfg(not(any(loom, shuttle)))]

mod cpu;
mod cpuset;
mod deep;
mod hugetlb;
mod io;
mod memory;
mod misc;
mod rdma;
mod tree;

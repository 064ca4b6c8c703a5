//! A handle on the deepest of many removed cgroups holds all of them.

use crate::tree::Tree;
use cgrove_core::controller::cpu::Cpu;
use cgrove_core::controller::cpuset::Cpuset;
use cgrove_core::controller::hugetlb::{HugePageSize, Hugetlb};
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::io::Io;
use cgrove_core::controller::memory::Memory;
use cgrove_core::controller::misc::Misc;
use cgrove_core::controller::rdma::Rdma;
use cgrove_core::controller::registry::Standard;
use cgrove_core::*;
use std::any::Any;
use std::sync::Arc;

const DEPTH: usize = 600;

/// What an embedder may have kept of a leaf, an open file say.
fn handles(leaf: Arc<Cgroup>) -> Vec<Box<dyn Any + Send>> {
    vec![
        Box::new(Cpuset::css(&leaf).unwrap()),
        Box::new(Cpu::css(&leaf).unwrap()),
        Box::new(Io::css(&leaf).unwrap()),
        Box::new(Memory::css(&leaf).unwrap()),
        Box::new(Hugetlb::css(&leaf).unwrap()),
        Box::new(Pids::css(&leaf).unwrap()),
        Box::new(Rdma::css(&leaf).unwrap()),
        Box::new(Misc::css(&leaf).unwrap()),
        Box::new(leaf.css("pids").unwrap()),
        Box::new(leaf),
    ]
}

/// Each is the only handle in its turn, and what it holds is as deep as the tree
/// was: dropped one inside the other the stack would overflow.
#[test]
fn the_last_handle_on_a_deep_removed_tree_is_dropped_on_a_small_stack() {
    let count = handles_of_a_deep_removed_tree().len();
    for kept in 0..count {
        let handle = handles_of_a_deep_removed_tree().swap_remove(kept);
        let small = std::thread::Builder::new().stack_size(64 << 10);
        small.spawn(move || drop(handle)).unwrap().join().unwrap();
    }
}

fn handles_of_a_deep_removed_tree() -> Vec<Box<dyn Any + Send>> {
    let standard = Standard::new(IdMask::first(1), IdMask::first(1), &[HugePageSize::MB2]);
    let mut t = Tree::of(standard.registry().builder());
    let mut path = vec![t.top("a")];
    for level in 0..DEPTH {
        path.push(t.mkdir(&path[level].clone(), "a"));
    }
    let handles = handles(path[DEPTH].clone());
    while let Some(last) = path.pop() {
        t.h.remove(&last, &mut t.fx).unwrap();
    }
    assert_eq!(t.h.pump(&mut t.fx), 0);
    assert_eq!(t.h.stat(t.h.root()).nr_dying_descendants, 0);
    handles
}

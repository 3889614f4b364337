//! Memory is wiped when it is given back, whoever had it.
//!
//! Our own secrets wipe themselves, but they also pass through buffers of libraries (HTTP/2
//! frames, TLS records, JSON) that do not. So the allocator does it for everything: what is not
//! in use is not there. It costs one `memset` a free.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, wiping.
pub(crate) struct Wiping;

// SAFETY: every call is the system allocator's own; memory is only written while it is still ours.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back what `layout` describes.
        unsafe {
            memory.write_bytes(0, layout.size());
            // Makes the writes count as seen: before a free they would be optimised away.
            std::arch::asm!("/* {0} */", in(reg) memory, options(nostack, preserves_flags, readonly));
            System.dealloc(memory, layout);
        }
    }

    // `realloc` is the trait's own: a new piece, a copy, and the old one wiped by `dealloc`.
}

/// Gives free memory back to the system: glibc keeps what a burst took until it is asked.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer and touches only free memory.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

//! The allocator of the programs of this package: the system's, with a count of what each thread asked for. Judges
//! nothing; read by the cases that count allocations and bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What one thread has asked for, since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Calls that gave memory.
    pub(super) allocations: u64,
    /// Bytes taken less bytes given back; what another thread gives back is not seen here.
    pub(super) bytes: i64,
}

thread_local! {
    // Without a destructor and a lazy start, so that touching it allocates nothing.
    static ASKED: Cell<Asked> = const { Cell::new(Asked { allocations: 0, bytes: 0 }) };
}

/// What this thread has asked for until now.
pub(super) fn asked() -> Asked {
    ASKED.get()
}

fn note(allocations: u64, bytes: i64) {
    // A thread that ends allocates after its locals are gone; that is nothing we measure.
    let _ = ASKED.try_with(|asked| {
        let before = asked.get();
        asked.set(Asked { allocations: before.allocations + allocations, bytes: before.bytes + bytes });
    });
}

/// Layouts are at most `isize::MAX` bytes long.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; it passes everything on")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, signed(layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, signed(layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, signed(size) - signed(layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, -signed(layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::asked;

    #[test]
    fn allocations_and_bytes_are_counted_and_given_back() {
        let before = asked();
        let held = black_box(Box::new([0_u8; 100]));
        let during = asked();
        drop(held);
        let after = asked();
        assert_eq!((during.allocations - before.allocations, during.bytes - before.bytes), (1, 100));
        assert_eq!((after.allocations, after.bytes), (during.allocations, before.bytes));
    }
}

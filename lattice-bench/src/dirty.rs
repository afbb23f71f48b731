//! The least that a fresh instance costs: find the pages that the last one wrote to and copy what they should hold.

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::Error;

/// Bytes of a page.
const PAGE: usize = 4096;
/// Size of the region in pages: what the linear memory of a small Rust program has.
const PAGES: usize = 280;
/// Every how many pages one is dirty; the dirty ones of a guest lie apart, too: stack, globals, heap.
const STRIDE: usize = 32;
/// Ranges that one scan returns, more than there are.
const MAX_RANGES: usize = 32;

/// The number of the request and its argument, from the kernel's `fs.h`.
const PAGEMAP_SCAN: Opcode = opcode::read_write::<ScanArgument>(b'f', 16);
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    ranges: u64,
    ranges_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Range {
    start: u64,
    end: u64,
    categories: u64,
}

/// Memory with some dirty pages, and what it should hold.
pub(crate) struct Region {
    start: *mut u8,
    image: Vec<u8>,
    pagemap: std::fs::File,
    ranges: Box<[Range; MAX_RANGES]>,
}

impl Region {
    /// A region with so many dirty pages.
    ///
    /// # Errors
    /// No memory, or no `/proc/self/pagemap`.
    pub(crate) fn new(dirty_pages: usize) -> Result<Self, Error> {
        let image = vec![7; PAGES * PAGE];
        #[expect(unsafe_code, reason = "memory that the allocator does not move or merge")]
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), image.len(), ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE)
        }?;
        let mut region = Self { start: start.cast(), image, pagemap: std::fs::File::open("/proc/self/pagemap")?, ranges: Box::default() };
        for page in region.memory().chunks_mut(PAGE).step_by(STRIDE).take(dirty_pages) {
            page.fill(1);
        }
        Ok(region)
    }

    /// Resets the region as a pool does between two instances; returns how many bytes were copied.
    ///
    /// # Errors
    /// The kernel knows no such scan (it is older than 6.7).
    pub(crate) fn reset(&mut self) -> Result<usize, Error> {
        let start = u64::try_from(self.start.addr())?;
        let mut argument = ScanArgument {
            size: u64::try_from(size_of::<ScanArgument>())?,
            start,
            end: start + u64::try_from(self.image.len())?,
            ranges: u64::try_from(self.ranges.as_mut_ptr().addr())?,
            ranges_length: u64::try_from(MAX_RANGES)?,
            category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE,
            category_mask: PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_FILE,
            ..ScanArgument::default()
        };
        #[expect(unsafe_code, reason = "the kernel's own interface")]
        // SAFETY: number and argument belong together, and the argument points to `ranges`, which lives longer.
        unsafe {
            ioctl(&self.pagemap, Updater::<PAGEMAP_SCAN, ScanArgument>::new(&mut argument))?;
        }
        let mut copied = 0;
        for range in self.ranges.iter().take_while(|range| range.end > range.start) {
            let (from, to) = (usize::try_from(range.start - start)?, usize::try_from(range.end - start)?);
            #[expect(unsafe_code, reason = "borrows nothing but the mapping")]
            // SAFETY: the mapping is as long as the image, lives as long as `self`, and nothing else refers to it.
            let memory = unsafe { std::slice::from_raw_parts_mut(self.start, self.image.len()) };
            if let (Some(dirty), Some(clean)) = (memory.get_mut(from..to), self.image.get(from..to)) {
                dirty.copy_from_slice(clean);
                copied += clean.len();
            }
        }
        Ok(copied)
    }

    #[expect(unsafe_code, reason = "a mapping has no other access")]
    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: as long as the image, alive as long as `self`, borrowed once.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.image.len()) }
    }
}

impl Drop for Region {
    #[expect(unsafe_code, reason = "ends a mapping that nobody borrows any more")]
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length. A failure would only leave it mapped.
        let _ = unsafe { munmap(self.start.cast(), self.image.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_dirty_pages_are_copied() {
        let mut region = Region::new(5).unwrap();
        match region.reset() {
            Ok(copied) => assert_eq!(copied, 5 * PAGE),
            // An old kernel: nothing to test here.
            Err(error) => return eprintln!("no PAGEMAP_SCAN: {error}"),
        }
        let dirty: Vec<u8> = region.memory().chunks(PAGE).step_by(STRIDE).take(5).filter_map(|page| page.first().copied()).collect();
        assert_eq!(dirty, [7; 5]);
    }
}

//! The KV cache in pages of [`PAGE`] positions: counted, shared between sequences, copied before they are written.

use std::ops::Range;
use std::sync::Arc;

use aibit_graph::{Graph, KvPrecision};
use aibit_kernels::{AttentionShape, Context, KvDtype, KvPlace, KvRun, PAGE, attention, store_kv};
use aibit_runtime::{Profile, RuntimeError};

use crate::memory::Zeroed;

/// Name of the cache in errors.
pub(crate) const CACHE: &str = "the KV cache";

/// How a profile stores keys and values that the graph keeps in `precision`.
fn dtype_of(profile: Profile, precision: KvPrecision) -> KvDtype {
    match (profile, precision) {
        (Profile::Fast, KvPrecision::Int8) => KvDtype::Int8,
        (Profile::Fast | Profile::Precise, KvPrecision::F16) | (Profile::Precise, KvPrecision::Int8) => {
            KvDtype::F16
        }
        (Profile::Fast | Profile::Precise, KvPrecision::F32) | (Profile::Exact, _) => KvDtype::F32,
    }
}

/// The part of a page that one attention node uses.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) dtype: KvDtype,
    bytes: Range<usize>,
}

/// Where each slot lies in a page.
#[derive(Debug)]
pub(crate) struct PageLayout {
    pub(crate) slots: Vec<Slot>,
    /// Bytes of a page.
    pub(crate) bytes: usize,
}

impl PageLayout {
    pub(crate) fn new(graph: &Graph, profile: Profile) -> Result<Self, RuntimeError> {
        let (mut slots, mut end) = (Vec::new(), 0_usize);
        for slot in &graph.kv_slots {
            let dtype = dtype_of(profile, slot.precision);
            // Room does not depend on the number of queries.
            let shape = AttentionShape {
                n_head: slot.n_kv_head,
                n_kv_head: slot.n_kv_head,
                head_dim: slot.head_dim,
                scale: 1.0,
            };
            let start = end;
            let bytes = shape.page_bytes(dtype).and_then(|bytes| start.checked_add(bytes));
            end = bytes.ok_or(RuntimeError::Memory { what: CACHE, bytes: None })?;
            slots.push(Slot { dtype, bytes: start..end });
        }
        Ok(Self { slots, bytes: end })
    }
}

/// Keys and values of [`PAGE`] positions in every slot.
#[derive(Debug)]
pub(crate) struct Page(Zeroed);

/// Pages that no sequence uses, and how many there are in all.
#[derive(Debug)]
pub(crate) struct PagePool {
    layout: Arc<PageLayout>,
    /// Most pages that may exist.
    limit: usize,
    existing: usize,
    free: Vec<Page>,
}

impl PagePool {
    pub(crate) fn new(layout: Arc<PageLayout>, limit: usize) -> Self {
        Self { layout, limit, existing: 0, free: Vec::new() }
    }

    pub(crate) fn layout(&self) -> &Arc<PageLayout> {
        &self.layout
    }

    /// Pages that sequences use.
    pub(crate) fn used(&self) -> usize {
        self.existing - self.free.len()
    }

    /// Pages that sequences could still take.
    pub(crate) fn available(&self) -> usize {
        self.limit - self.used()
    }

    /// Pages with memory of their own, used or not.
    pub(crate) fn existing(&self) -> usize {
        self.existing
    }

    fn take(&mut self) -> Result<Page, RuntimeError> {
        if let Some(page) = self.free.pop() {
            return Ok(page);
        }
        if self.existing == self.limit {
            return Err(RuntimeError::PagesExhausted { pages: self.limit });
        }
        let page = Page(Zeroed::new::<u8>(self.layout.bytes, CACHE)?);
        self.existing += 1;
        Ok(page)
    }

    fn release(&mut self, page: Arc<Page>) {
        if let Some(page) = Arc::into_inner(page) {
            self.free.push(page);
        }
    }
}

/// The pages of one sequence.
#[derive(Debug)]
pub(crate) struct Sequence {
    pages: Vec<Arc<Page>>,
    pub(crate) len: usize,
    /// Most positions, which decides between frequencies of rotary embeddings.
    pub(crate) capacity: usize,
}

impl Sequence {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { pages: Vec::new(), len: 0, capacity }
    }

    /// Pages that `tokens` more positions need beyond those that the sequence has to itself.
    pub(crate) fn missing_pages(&self, tokens: usize) -> usize {
        let (first, end) = (self.len / PAGE, (self.len + tokens).div_ceil(PAGE));
        let own = (first..end)
            .filter(|page| self.pages.get(*page).is_some_and(|page| Arc::strong_count(page) == 1));
        end.saturating_sub(first) - own.count()
    }

    /// Takes pages for `tokens` more positions, and copies those among them that other sequences use as well.
    pub(crate) fn reserve(&mut self, tokens: usize, pool: &mut PagePool) -> Result<(), RuntimeError> {
        for index in self.len / PAGE..(self.len + tokens).div_ceil(PAGE) {
            let Some(page) = self.pages.get_mut(index) else {
                self.pages.push(Arc::new(pool.take()?));
                continue;
            };
            if Arc::get_mut(page).is_none() {
                let mut own = pool.take()?;
                own.0.bytes_mut().copy_from_slice(page.0.bytes());
                pool.release(std::mem::replace(page, Arc::new(own)));
            }
        }
        Ok(())
    }

    /// The same first `len` positions in a sequence of its own.
    pub(crate) fn fork(&self, len: usize) -> Self {
        let len = len.min(self.len);
        Self { pages: self.pages[..len.div_ceil(PAGE)].to_vec(), len, capacity: self.capacity }
    }

    /// Forgets all positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize, pool: &mut PagePool) {
        self.len = self.len.min(len);
        for page in self.pages.drain(self.len.div_ceil(PAGE).min(self.pages.len())..) {
            pool.release(page);
        }
    }

    /// Where rows `rows` of a batch, the sequence's next positions, are stored in a slot's pages.
    ///
    /// # Panics
    /// If they have not been reserved.
    pub(crate) fn places(&mut self, slot: &Slot, rows: Range<usize>) -> impl Iterator<Item = KvPlace<'_>> {
        let (past, bytes) = (self.len, slot.bytes.clone());
        let first = past / PAGE;
        let count = if rows.is_empty() { 0 } else { (past + rows.len()).div_ceil(PAGE) - first };
        self.pages[first.min(first + count)..first + count].iter_mut().zip(first..).map(
            move |(page, index)| {
                let (start, end) = (past.max(index * PAGE), (past + rows.len()).min((index + 1) * PAGE));
                let page = Arc::get_mut(page).expect("reserved pages have one owner");
                KvPlace {
                    page: &mut page.0.bytes_mut()[bytes.clone()],
                    position: start % PAGE,
                    rows: rows.start + start - past..rows.start + end - past,
                }
            },
        )
    }

    /// The sequence's next `rows` positions with all before them, as attention reads them.
    pub(crate) fn run(&self, slot: &Slot, rows: usize) -> KvRun<'_> {
        let pages = &self.pages[..(self.len + rows).div_ceil(PAGE)];
        let pages = pages.iter().map(|page| &page.0.bytes()[slot.bytes.clone()]).collect();
        KvRun { rows, past: self.len, pages }
    }
}

/// Attention of one sequence from its start whose keys and values are kept in `precision`, `[m, n_head · head_dim]`.
pub(crate) fn attend_once(
    cx: &Context,
    shape: &AttentionShape,
    precision: KvPrecision,
    qkv: &[f32],
) -> Result<Vec<f32>, RuntimeError> {
    let dtype = dtype_of(Profile::Fast, precision);
    let bytes = shape.page_bytes(dtype).ok_or(RuntimeError::Memory { what: CACHE, bytes: None })?;
    let layout = PageLayout { slots: vec![Slot { dtype, bytes: 0..bytes }], bytes };
    let mut pool = PagePool::new(Arc::new(layout), usize::MAX);
    let (m, mut sequence) = (qkv.len() / shape.qkv_width(), Sequence::new(usize::MAX));
    sequence.reserve(m, &mut pool)?;
    let slot = &pool.layout.slots[0];
    let mut places: Vec<_> = sequence.places(slot, 0..m).collect();
    store_kv(cx, shape, dtype, qkv, &mut places);
    let mut y = vec![0.0; m * shape.n_head * shape.head_dim];
    attention(cx, shape, dtype, qkv, &[sequence.run(slot, m)], &mut y);
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(limit: usize) -> PagePool {
        let slot = Slot { dtype: KvDtype::F32, bytes: 0..512 };
        PagePool::new(Arc::new(PageLayout { slots: vec![slot], bytes: 512 }), limit)
    }

    fn grow(sequence: &mut Sequence, tokens: usize, pool: &mut PagePool) -> Result<(), RuntimeError> {
        sequence.reserve(tokens, pool)?;
        sequence.len += tokens;
        Ok(())
    }

    #[test]
    fn a_fork_shares_pages_until_one_of_them_is_written() {
        let mut pool = pool(10);
        let mut first = Sequence::new(1000);
        grow(&mut first, 2 * PAGE + 5, &mut pool).expect("pages");
        let mut second = first.fork(usize::MAX);
        assert_eq!((second.len, pool.used()), (2 * PAGE + 5, 3));
        assert_eq!((first.missing_pages(1), second.missing_pages(PAGE)), (1, 2));
        // The third page is half full and shared: whoever writes first copies it.
        grow(&mut second, 1, &mut pool).expect("a page");
        assert_eq!(pool.used(), 4);
        grow(&mut first, 1, &mut pool).expect("its own page");
        assert_eq!(pool.used(), 4);
        // A fork at the end of a page has nothing to copy.
        let mut third = first.fork(2 * PAGE);
        grow(&mut third, 1, &mut pool).expect("a page");
        assert_eq!(pool.used(), 5);
        first.truncate(0, &mut pool);
        assert_eq!((first.pages.len(), pool.used()), (0, 4));
        second.truncate(0, &mut pool);
        third.truncate(0, &mut pool);
        assert_eq!((pool.used(), pool.existing()), (0, 5));
    }

    #[test]
    fn pages_have_a_limit_and_are_used_again() {
        let mut pool = pool(2);
        let (mut first, mut second) = (Sequence::new(1000), Sequence::new(1000));
        grow(&mut first, 2 * PAGE, &mut pool).expect("two pages");
        assert!(matches!(grow(&mut second, 1, &mut pool), Err(RuntimeError::PagesExhausted { pages: 2 })));
        first.truncate(PAGE, &mut pool);
        grow(&mut second, 1, &mut pool).expect("the page that was freed");
        assert_eq!((pool.used(), pool.available(), pool.existing()), (2, 0, 2));
    }

    #[test]
    fn places_follow_positions_through_pages() {
        let mut pool = pool(4);
        let mut sequence = Sequence::new(1000);
        grow(&mut sequence, PAGE - 2, &mut pool).expect("a page");
        sequence.reserve(PAGE + 3, &mut pool).expect("two more");
        let slot = pool.layout.slots[0].clone();
        let places: Vec<_> = sequence.places(&slot, 7..7 + PAGE + 3).map(|p| (p.position, p.rows)).collect();
        assert_eq!(places, [(PAGE - 2, 7..9), (0, 9..9 + PAGE), (0, 9 + PAGE..10 + PAGE)]);
        assert_eq!(sequence.places(&slot, 7..7).count(), 0);
    }
}

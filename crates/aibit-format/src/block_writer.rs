//! Buffered writing in whole, aligned blocks.

use std::io::{self, Seek, SeekFrom, Write};

/// The size of a large page on all supported machines that have them for files.
///
/// If the file system supports large pages, a block written at once becomes one. A process that maps the file then
/// needs one page fault per block instead of 32, and fewer TLB entries.
pub(crate) const BLOCK: usize = 2 << 20;

/// Buffers writes and passes them on in blocks aligned to [`BLOCK`], except around seeks and flushes. Data that has
/// not been flushed when it is dropped is lost.
#[derive(Debug)]
pub(crate) struct BlockWriter<W> {
    sink: W,
    /// The sink's position, where the buffered bytes belong.
    position: u64,
    buffer: Vec<u8>,
}

impl<W: Write + Seek> BlockWriter<W> {
    /// A writer to `sink`, whose position must be 0.
    pub(crate) fn new(sink: W) -> Self {
        Self { sink, position: 0, buffer: Vec::with_capacity(BLOCK) }
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.buffer)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write + Seek> Write for BlockWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let in_block = (self.position % BLOCK as u64) as usize + self.buffer.len();
        let taken = data.len().min(BLOCK - in_block);
        self.buffer.extend_from_slice(&data[..taken]);
        if in_block + taken == BLOCK {
            self.write_buffer()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_buffer()?;
        self.sink.flush()
    }
}

impl<W: Write + Seek> Seek for BlockWriter<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.write_buffer()?;
        self.position = self.sink.seek(to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in memory, and the start and end of each write.
    #[derive(Default)]
    struct Log {
        bytes: io::Cursor<Vec<u8>>,
        writes: Vec<(u64, u64)>,
    }

    impl Write for Log {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let start = self.bytes.position();
            let taken = self.bytes.write(data)?;
            self.writes.push((start, self.bytes.position()));
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Log {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.bytes.seek(to)
        }
    }

    #[test]
    fn pieces_of_any_size_become_blocks_and_keep_their_places() {
        let data: Vec<u8> = (0..3 * BLOCK + 70_000).map(|i| (i % 251) as u8).collect();
        let mut writer = BlockWriter::new(Log::default());
        for piece in data.chunks(300_007) {
            writer.write_all(piece).expect("write");
        }
        let end = writer.stream_position().expect("position");
        assert_eq!(end, data.len() as u64);
        writer.seek(SeekFrom::Start(5)).expect("seek");
        writer.write_all(b"header").expect("write");
        writer.seek(SeekFrom::Start(end)).expect("seek");
        writer.write_all(b"tail").expect("write");
        writer.flush().expect("flush");

        let block = BLOCK as u64;
        let expected = [(0, block), (block, 2 * block), (2 * block, 3 * block), (3 * block, end)];
        assert_eq!(writer.sink.writes[..4], expected);
        assert_eq!(
            writer.sink.writes[4..].iter().copied().filter(|(a, b)| a < b).collect::<Vec<_>>(),
            [(5, 11), (end, end + 4)]
        );
        let mut expected = data;
        expected[5..11].copy_from_slice(b"header");
        expected.extend_from_slice(b"tail");
        assert!(writer.sink.bytes.into_inner() == expected);
    }
}

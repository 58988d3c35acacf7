//! Writing an archive: streamed into a partial file next to the target, synced, renamed.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::archive::{check_length, hex};
use crate::block_writer::BlockWriter;
use crate::write_back::WriteBack;
use crate::zip::{self, Record};
use crate::{
    Archive, EntryRecord, FormatError, Manifest, MappedFile, OutputFile, OutputTarget, Replace, Weights,
    entry_names,
};

/// Writes one archive. The target's name appears only after [`ArchiveWriter::finish`] has written and synced
/// everything; dropping the writer removes the partial file.
#[derive(Debug)]
pub struct ArchiveWriter {
    output: OutputFile,
    container: ContainerWriter<BlockWriter<File>>,
    write_back: WriteBack,
    entries: Vec<EntryRecord>,
}

impl ArchiveWriter {
    /// A writer to `target`, which may replace any regular file.
    ///
    /// # Errors
    /// As [`OutputTarget::file`] and [`OutputFile::create`].
    pub fn create(target: impl AsRef<Path>) -> Result<Self, FormatError> {
        Self::new(OutputFile::create(OutputTarget::file(target.as_ref(), Replace::Any)?)?)
    }

    /// A writer to an empty file.
    ///
    /// # Errors
    /// [`FormatError::Io`].
    pub fn new(output: OutputFile) -> Result<Self, FormatError> {
        let file = output.file().try_clone().map_err(write_error(output.path()))?;
        let write_back = WriteBack::new(&file).map_err(write_error(output.path()))?;
        let container = ContainerWriter::new(BlockWriter::new(file));
        Ok(Self { output, container, write_back, entries: Vec::new() })
    }

    /// Adds an entry whose bytes are all available.
    ///
    /// # Errors
    /// [`FormatError::Io`], for example when the disk is full.
    pub fn add(&mut self, name: &str, media_type: &str, data: &[u8]) -> Result<(), FormatError> {
        let mut entry = self.start_entry(name, media_type, data.len() as u64)?;
        entry.write_all(data)?;
        entry.finish()
    }

    /// Starts an entry of `bytes` bytes that are written piece by piece.
    ///
    /// # Errors
    /// [`FormatError::Io`], [`FormatError::EntryLength`] if the previous entry was not finished,
    /// [`FormatError::EntryTooLong`].
    ///
    /// # Panics
    /// If `name` is not allowed by the format or is a duplicate: names are constants of the caller.
    pub fn start_entry(
        &mut self,
        name: &str,
        media_type: &str,
        bytes: u64,
    ) -> Result<EntryWriter<'_>, FormatError> {
        let twin = self.entries.iter().any(|e| e.name.eq_ignore_ascii_case(name));
        assert!(!twin, "entry `{name}` is written twice");
        self.check_complete()?;
        check_length(name, bytes)?;
        self.container.start(name, bytes).map_err(write_error(self.output.path()))?;
        let (name, media_type) = (name.to_owned(), media_type.to_owned());
        self.entries.push(EntryRecord { name, bytes, sha256: String::new(), media_type });
        Ok(EntryWriter { archive: self, digest: Sha256::new(), written: 0 })
    }

    /// Maps the tensors of `weights.safetensors` as written so far, so that the package's outputs can be computed
    /// before it is complete.
    ///
    /// # Errors
    /// [`FormatError::MissingEntry`] before that entry is written, [`FormatError::Io`].
    pub fn weights(&mut self) -> Result<Weights, FormatError> {
        self.container.sink.flush().map_err(write_error(self.output.path()))?;
        let record = self.container.records.iter().find(|r| r.name == entry_names::WEIGHTS);
        let Some(record) = record else {
            let (entry, present) = (entry_names::WEIGHTS.to_owned(), "entries written before it".to_owned());
            return Err(FormatError::MissingEntry { entry, present });
        };
        let map = MappedFile::of(self.output.file()).map_err(write_error(self.output.path()))?;
        Weights::new(map, record)
    }

    /// Checks that the last entry was finished: it has no digest before.
    fn check_complete(&self) -> Result<(), FormatError> {
        match (self.entries.last(), self.container.records.last()) {
            (Some(entry), Some(record)) if entry.sha256.is_empty() => {
                Err(length_error(entry, self.container.position - record.data_offset()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the manifest, with the entries' digests filled in, and the directory; syncs; and renames the file to
    /// its final name, replacing an existing file. Returns its length.
    ///
    /// # Errors
    /// [`FormatError::Io`], [`FormatError::EntryLength`] if an entry was not finished; the target is then unchanged.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<u64, FormatError> {
        self.check_complete()?;
        manifest.entries = self.entries.clone();
        let json = manifest.to_json();
        self.add(entry_names::MANIFEST, "application/json", &json)?;
        self.container.finish().map_err(write_error(self.output.path()))?;
        self.write_back.finish().map_err(write_error(self.output.path()))?;
        self.output.finish()
    }
}

/// Copies the entries of `archive`, each verified against its digest, to a new archive in the newest version of the
/// container. Returns the length of the file.
///
/// # Errors
/// [`FormatError::Digest`] for an entry that differs from its digest, [`FormatError::Io`].
pub fn copy_archive(archive: &Archive, output: OutputFile) -> Result<u64, FormatError> {
    let mut writer = ArchiveWriter::new(output)?;
    for EntryRecord { name, media_type, .. } in &archive.manifest().entries {
        archive.verify_entry(name)?;
        writer.add(name, media_type, archive.entry(name)?.data)?;
    }
    writer.finish(archive.manifest().clone())
}

/// The error for `entry` when `found` bytes were written.
fn length_error(entry: &EntryRecord, found: u64) -> FormatError {
    FormatError::EntryLength { entry: entry.name.clone(), found, expected: entry.bytes }
}

fn write_error(target: &Path) -> impl FnOnce(io::Error) -> FormatError {
    let path = target.to_owned();
    move |source| FormatError::Io { action: "write", path, source }
}

/// An entry being written.
#[derive(Debug)]
pub struct EntryWriter<'a> {
    archive: &'a mut ArchiveWriter,
    digest: Sha256,
    written: u64,
}

impl EntryWriter<'_> {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`FormatError::Io`], [`FormatError::EntryLength`] past the announced length.
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), FormatError> {
        self.written += data.len() as u64;
        if self.written > self.record().bytes {
            return Err(self.length_error());
        }
        self.digest.update(data);
        let archive = &mut *self.archive;
        archive.container.write(data).map_err(write_error(archive.output.path()))?;
        archive.write_back.wrote(data.len() as u64).map_err(write_error(archive.output.path()))
    }

    /// Finishes the entry and records its digest.
    ///
    /// # Errors
    /// [`FormatError::EntryLength`] if bytes are missing, [`FormatError::Io`].
    pub fn finish(self) -> Result<(), FormatError> {
        if self.written != self.record().bytes {
            return Err(self.length_error());
        }
        let archive = self.archive;
        archive.container.end().map_err(write_error(archive.output.path()))?;
        let record = archive.entries.last_mut().expect("an entry was started");
        record.sha256 = hex(&self.digest.finalize());
        Ok(())
    }

    fn record(&self) -> &EntryRecord {
        self.archive.entries.last().expect("an entry was started")
    }

    fn length_error(&self) -> FormatError {
        length_error(self.record(), self.written)
    }
}

/// Writes the container to any seekable sink.
#[derive(Debug)]
struct ContainerWriter<W> {
    sink: W,
    records: Vec<Record>,
    position: u64,
    crc32: crc32fast::Hasher,
}

impl<W: Write + Seek> ContainerWriter<W> {
    fn new(sink: W) -> Self {
        Self { sink, records: Vec::new(), position: 0, crc32: crc32fast::Hasher::new() }
    }

    /// Writes the local header with a checksum of zero; [`Self::end`] writes it again.
    fn start(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let name = zip::check_name(name.as_bytes()).expect("an entry name that the format allows");
        let record = Record { name, bytes, crc32: 0, header_offset: self.position };
        self.sink.write_all(&record.local_header())?;
        self.position = record.data_offset();
        self.crc32 = crc32fast::Hasher::new();
        self.records.push(record);
        Ok(())
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.crc32.update(data);
        self.sink.write_all(data)?;
        self.position += data.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let record = self.records.last_mut().expect("an entry was started");
        record.crc32 = self.crc32.clone().finalize();
        self.sink.seek(SeekFrom::Start(record.header_offset))?;
        self.sink.write_all(&record.local_header())?;
        self.sink.seek(SeekFrom::Start(self.position))?;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<u64> {
        let directory = zip::directory(&self.records, self.position);
        self.sink.write_all(&directory)?;
        self.sink.flush()?;
        Ok(self.position + directory.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeks over zeros, so that a test can exceed 4 GiB without writing them.
    #[derive(Debug)]
    struct Sparse(File);

    impl Write for Sparse {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if data.iter().all(|&byte| byte == 0) {
                self.0.seek_relative(data.len() as i64)?;
                return Ok(data.len());
            }
            self.0.write(data)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    impl Seek for Sparse {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn entries_beyond_4_gib_are_read_back_by_us_and_by_the_zip_crate() {
        let file = tempfile::tempfile().expect("temporary file");
        let mut writer = ContainerWriter::new(Sparse(file.try_clone().expect("file handle")));
        let (big, zeros) = ((4_u64 << 30) + 4096, vec![0; 1 << 24]);
        writer.start("big.bin", big).expect("start");
        for _ in 0..big / zeros.len() as u64 {
            writer.write(&zeros).expect("write");
        }
        writer.write(&zeros[..4096]).expect("write");
        writer.end().expect("end");
        writer.start("small.txt", 5).expect("start");
        writer.write(b"after").expect("write");
        writer.end().expect("end");
        let length = writer.finish().expect("finish");

        let map = MappedFile::of(&file).expect("map");
        assert_eq!(map.len() as u64, length);
        let records = zip::read_records(&map).expect("our reader");
        assert_eq!((records[0].bytes, records[0].data_offset()), (big, 4096));
        assert_eq!(&map[records[1].data_offset() as usize..][..5], b"after");
        assert!(records[1].header_offset > u64::from(u32::MAX));

        let mut other = ::zip::ZipArchive::new(io::Cursor::new(&map[..])).expect("the zip crate's reader");
        assert_eq!(other.by_name("big.bin").expect("entry").size(), big);
        let mut text = String::new();
        io::Read::read_to_string(&mut other.by_name("small.txt").expect("entry"), &mut text).expect("read");
        assert_eq!(text, "after");
    }

    /// A disk with limited space.
    #[derive(Debug)]
    struct FullDisk {
        room: usize,
    }

    impl Write for FullDisk {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let taken = data.len().min(self.room);
            self.room -= taken;
            if taken == 0 && !data.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for FullDisk {
        fn seek(&mut self, _to: SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn a_full_disk_is_an_error_wherever_it_happens() {
        let write = |room: usize| -> io::Result<u64> {
            let mut writer = ContainerWriter::new(FullDisk { room });
            writer.start("a.bin", 100)?;
            writer.write(&[7; 100])?;
            writer.end()?;
            writer.finish()
        };
        let needed = 4096 + 100 + 4096; // header, data, header again; then the directory
        for room in [0, 10, 4096, 4150, needed, needed + 60] {
            let error = write(room).expect_err("no room");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "with room for {room} bytes");
        }
        write(needed + 200).expect("room enough");
    }
}

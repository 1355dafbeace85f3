//! A disk in memory that can be full, slow, failing, and forget whatever was not synced.

use std::{
    collections::BTreeMap,
    io::{self, Cursor},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bartizan_audit::{Reading, Segment, Storage};

#[derive(Clone, Default)]
pub struct Double(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    files: BTreeMap<u64, File>,
    /// By how many bytes files may still grow; `None` is no end.
    pub space: Option<usize>,
    /// How many syncs succeed before they fail; `None` is no end.
    pub syncs_left: Option<usize>,
    /// Whether cutting fails too.
    pub truncate_fails: bool,
    pub slow: Duration,
    pub syncs: usize,
    /// How many syncs made a longer file durable.
    pub growths: usize,
    /// After this many more writes and syncs the power is gone.
    pub power: Option<usize>,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

impl Double {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power comes back: what was synced is there; of what was written since, any part of each file may be.
    pub fn reboot(&self, mut chance: impl FnMut(usize) -> usize) {
        let mut state = self.state();
        for file in state.files.values_mut().filter(|file| file.bytes != file.synced) {
            let bytes = file.after_power_cut(&mut chance);
            *file = File { synced: bytes.clone(), bytes };
        }
        state.power = None;
    }

    /// The segment `first` as a disk would have it now.
    pub fn bytes(&self, first: u64) -> Vec<u8> {
        self.state().file(first).unwrap().bytes.clone()
    }

    /// Another disk, with these bytes as its only segment.
    pub fn with(first: u64, bytes: &[u8]) -> Self {
        let disk = Self::default();
        disk.state().files.insert(first, File { bytes: bytes.to_vec(), synced: bytes.to_vec() });
        disk
    }

    /// Writes the segments into a folder, for the verifier.
    pub fn dump(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (first, file) in &self.state().files {
            std::fs::write(folder.join(format!("{first:020}.jsonl")), &file.bytes).unwrap();
        }
    }
}

impl File {
    /// Sectors of what was written since the last sync reach the disk in any order, over what was there and behind it; where
    /// none did and the file is longer than it was, there are zeros.
    fn after_power_cut(&self, chance: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
        let (old, new) = (&self.synced, &self.bytes);
        let length = if new.len() < old.len() {
            [old.len(), new.len()][chance(2)]
        } else {
            old.len() + chance(new.len() - old.len() + 1)
        };
        let sector = [16, 64, 512, 4096][chance(4)];
        let mut after = old.clone();
        after.resize(length, 0);
        let sectors: Vec<Range<usize>> =
            (0..length).step_by(sector).map(|from| from..(from + sector).min(length)).collect();
        let written: Vec<_> =
            sectors.into_iter().filter(|s| new.get(s.clone()) != Some(&after[s.clone()])).collect();
        let (order, one) = (chance(4), chance(written.len().max(1)));
        for (n, range) in written.into_iter().enumerate() {
            let is_kept = match order {
                0 => n < one,
                1 => n > one,
                2 => n != one,
                _ => chance(2) == 0,
            };
            if is_kept {
                // Where a file is cut, its last sector is zeroed before it is known that it is shorter.
                let content = new.iter().copied().skip(range.start).chain(std::iter::repeat(0));
                let cut_after = if range.start < new.len() { range.end } else { range.start };
                after[range.start..cut_after].iter_mut().zip(content).for_each(|(old, new)| *old = new);
            }
        }
        after
    }
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.power {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn file(&mut self, first: u64) -> io::Result<&mut File> {
        self.files.get_mut(&first).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Double {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.state().files.keys().copied().collect())
    }

    fn create(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        let mut state = self.state();
        state.step()?;
        if state.files.contains_key(&first) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.insert(first, File::default());
        Ok(Box::new(Writing { disk: self.clone(), first }))
    }

    fn resume(&self, first: u64) -> io::Result<Box<dyn Segment>> {
        self.state().file(first)?;
        Ok(Box::new(Writing { disk: self.clone(), first }))
    }

    fn read(&self, first: u64) -> io::Result<Box<dyn Reading>> {
        Ok(Box::new(Cursor::new(self.state().file(first)?.bytes.clone())))
    }

    fn length(&self, first: u64) -> io::Result<u64> {
        Ok(self.state().file(first)?.bytes.len() as u64)
    }

    fn remove(&self, first: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.files.remove(&first);
        Ok(())
    }

    fn keep_aside(&self, _first: u64, _cut: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

struct Writing {
    disk: Double,
    first: u64,
}

impl Segment for Writing {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        // What was being written when the power went is not even in memory.
        state.step()?;
        let space = state.space;
        let file = state.file(self.first)?;
        let (at, length) = (usize::try_from(at).unwrap(), file.bytes.len());
        let fits = space.map_or(bytes.len(), |space| (length + space).saturating_sub(at).min(bytes.len()));
        file.bytes.resize(length.max(at + fits), 0);
        file.bytes[at..at + fits].copy_from_slice(&bytes[..fits]);
        let grown = file.bytes.len() - length;
        state.space = space.map(|space| space - grown);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let slow = self.disk.state().slow;
        std::thread::sleep(slow);
        let mut state = self.disk.state();
        state.step()?;
        if let Some(left) = &mut state.syncs_left {
            if *left == 0 {
                return Err(io::Error::other("the disk is failing"));
            }
            *left -= 1;
        }
        let file = state.file(self.first)?;
        let grown = file.bytes.len() > file.synced.len();
        file.synced = file.bytes.clone();
        state.syncs += 1;
        state.growths += usize::from(grown);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        if state.truncate_fails {
            return Err(io::Error::other("cannot cut"));
        }
        let file = state.file(self.first)?;
        let before = file.bytes.len();
        file.bytes.truncate(usize::try_from(length).unwrap());
        let freed = before - file.bytes.len();
        state.space = state.space.map(|space| space + freed);
        Ok(())
    }
}

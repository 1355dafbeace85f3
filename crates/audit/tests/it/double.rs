//! A disk in memory that can be full, slow, failing, and forget whatever was not synced.

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bartizan_audit::{Segment, Storage};

#[derive(Clone, Default)]
pub struct Double(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    files: BTreeMap<u64, File>,
    /// How many more bytes fit; `None` is no end.
    pub room: Option<usize>,
    /// How many syncs succeed before they fail; `None` is no end.
    pub syncs_left: Option<usize>,
    /// Whether cutting fails too.
    pub truncate_fails: bool,
    pub slow: Duration,
    pub syncs: usize,
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

    /// The power comes back: what was synced is there; of what was not, some part of each file may be, with holes.
    pub fn reboot(&self, mut chance: impl FnMut(usize) -> usize) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            let unsynced = file.bytes.len().saturating_sub(file.synced.len());
            let mut bytes = file.synced.clone();
            if unsynced > 0 && file.bytes.starts_with(&file.synced) {
                let kept = chance(unsynced + 1);
                let mut part = file.bytes[file.synced.len()..file.synced.len() + kept].to_vec();
                if kept > 0 && chance(3) == 0 {
                    // A block in the middle never reached the disk.
                    let hole = chance(kept);
                    part[hole..(hole + 64).min(kept)].fill(0);
                }
                bytes.extend(part);
            }
            *file = File { synced: bytes.clone(), bytes };
        }
        state.power = None;
    }

    /// Writes the segments into a folder, for the verifier.
    pub fn dump(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (first, file) in &self.state().files {
            std::fs::write(folder.join(format!("{first:020}.jsonl")), &file.bytes).unwrap();
        }
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

    fn read(&self, first: u64) -> io::Result<Box<dyn Read + Send>> {
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
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let powered = state.step();
        let fits = state.room.map_or(bytes.len(), |room| room.min(bytes.len()));
        // When the power goes, half of it may still have reached the cache.
        let taken = if powered.is_err() { 0 } else { fits };
        state.file(self.first)?.bytes.extend_from_slice(&bytes[..taken]);
        if let Some(room) = &mut state.room {
            *room -= taken;
        }
        powered?;
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
        state.syncs += 1;
        let file = state.file(self.first)?;
        file.synced = file.bytes.clone();
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        if state.truncate_fails {
            return Err(io::Error::other("cannot cut"));
        }
        let file = state.file(self.first)?;
        file.bytes.truncate(usize::try_from(length).unwrap());
        Ok(())
    }
}

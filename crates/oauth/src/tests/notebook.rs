//! A record that tests read, and that can be full.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;

use crate::{Deed, Ledger, Report, Unrecorded};

#[derive(Default)]
pub struct Notebook {
    written: Mutex<Vec<Report>>,
    pub is_full: AtomicBool,
}

impl Notebook {
    /// What was written down since the last time.
    pub fn read(&self) -> Vec<Report> {
        std::mem::take(&mut *self.written.lock().unwrap())
    }

    /// Deeds and reasons of what was written down since the last time.
    pub fn deeds(&self) -> Vec<(Deed, &'static str)> {
        self.read().into_iter().map(|report| (report.deed, report.reason)).collect()
    }

    pub fn fill(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }
}

#[async_trait]
impl Ledger for Notebook {
    async fn enter(&self, report: Report) -> Result<(), Unrecorded> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(Unrecorded);
        }
        self.written.lock().unwrap().push(report);
        Ok(())
    }

    fn mention(&self, report: Report) {
        if !self.is_full.load(Ordering::SeqCst) {
            self.written.lock().unwrap().push(report);
        }
    }
}

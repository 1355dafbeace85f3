//! What happened, in a record nobody can quietly edit.
//!
//! Start from [`AuditFolder`], which gives a process its [`Log`]. A call is recorded before it is made and before it is
//! answered; both return only when the record is durable, and only they make the values that say so:
//!
//! ```text
//! let log = AuditFolder::open(&state.join("audit"), entropy)?.start("gate", clock, Options::default())?;
//!
//! let opened  = log.open(Event::new(Kind::CallOpened).by(&caller).with(details)).await?;   // no evidence, no call
//! let answer  = upstream.send(…).await;
//! let receipt = log.close(opened, Details { outcome: Some(Outcome::Ok), ..Details::default() }).await?;
//! respond(answer, receipt)                                                                 // no receipt, no answer
//! ```
//!
//! What it promises: nothing acknowledged is lost by a crash; whatever is altered, removed or reordered afterwards is
//! found and located offline ([`verify`]); nothing in a record can forge another; people can be erased without breaking
//! it ([`Persons`]). `docs/audit-log.md` specifies the files and every field.
//!
//! What it leaves to others: connections ([`export::Transport`]), and deciding what to record in clear. [`witness`] keeps
//! checkpoints where whoever can write the log cannot.

pub mod alert;
mod check;
mod checkpoint;
pub mod event;
pub mod export;
mod index;
mod log;
mod persons;
mod place;
mod private;
pub mod prove;
pub mod search;
mod segment;
mod storage;
mod text;
pub mod tree;
pub mod verify;
pub mod witness;

pub use check::Problem;
pub use checkpoint::{Checkpoint, InvalidOrigin, InvalidPublicKey, Origin, PublicKey, Signer};
pub use event::{Details, Entry, Event, EventId, Kind};
pub use log::{Log, Lost, Observer, OpenError, Opened, Options, Receipt, Setup};
pub use persons::{Identity, Person, Persons};
pub use place::{AuditFolder, FolderError};
pub use private::PrivateFileError;
pub use storage::{Disk, DiskError, Reading, Segment, Storage};
pub use text::{Text, harmless};

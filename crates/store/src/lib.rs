//! What is kept, and how it is kept from others.
//!
//! Start from [`Database`]: SQLite in a file of ours or Postgres shared by replicas, with the same tables. On it stand
//! the repositories, one table family each, as traits that take the time as an argument:
//!
//! * [`pins`]: the definitions of every server as a person approved them (attacks.md PO-01); [`Keeper`] answers from
//!   memory what may be shown and called;
//! * [`flows`]: which labels have entered whose conversation;
//! * [`approvals`]: decisions that wait for a person, each good for one exact call;
//! * [`responses`]: who and what is cut off, everywhere at once.
//! * [`admins`]: who may act at the admin listener, and until when.
//! * [`plans`]: what is done about a compromised server, step by step.
//! * [`reviews`]: reviews of rights, and what people decided about what they found;
//! * [`quarantine`]: results that wait for a person, each given once to whoever asked for it.
//! * [`consents`]: what a person allowed which client to do in their name;
//! * [`browsers`]: where somebody is signed in;
//! * [`pending`]: what happens once and soon, such as a sign-in under way.
//! * [`links`]: accounts that people linked at servers, and who the gate is at their authorization servers.
//! * [`provider_tokens`]: what the identity provider gave at a sign-in, for acting in that person's name.
//! * [`bundles`]: the newest bundle of the shield's that was taken up.
//! * [`sessions`]: live sessions of the legacy era, which any node can end;
//! * [`grants`]: what people granted clients, and what of it was revoked; [`clients`] that registered themselves;
//!   [`signing`] keys.
//!
//! * [`vault`]: secrets that the configuration names.
//!
//! [`seal`] is for values that go out into other hands and for sealed columns; [`persons`] for those that are somebody's.
//! [`lines`] are files of sealed lines, for what is kept outside the database.
//!
//! The keys are in a file of their own ([`keyfile`]), wrapped by a root key ([`root`]); [`reseal`] changes them, and
//! [`erase`] forgets a person.

pub mod admins;
pub mod approvals;
mod beside;
pub mod browsers;
pub mod bundles;
pub mod clients;
mod columns;
mod commits;
pub mod consents;
pub mod database;
mod digest;
pub mod erase;
pub mod flows;
pub mod grants;
pub mod keyfile;
pub mod links;
mod migrate;
pub mod pending;
pub mod persons;
pub mod pins;
pub mod plans;
pub mod provider_tokens;
mod punctured;
pub mod quarantine;
pub mod reseal;
pub mod responses;
pub mod reviews;
mod ring;
pub mod root;
pub mod seal;
pub mod sessions;
pub mod signing;
pub mod vault;

pub use admins::{Admins, StoredAdmins};
pub use approvals::{Approvals, StoredApprovals};
pub use browsers::{Browsers, StoredBrowsers};
pub use bundles::{Bundles, StoredBundles};
pub use clients::{Registrations, StoredRegistrations};
pub use consents::{Consents, StoredConsents};
pub use database::{Database, DatabaseError, Dialect};
pub use digest::{Digest, InvalidDigest};
pub use flows::{Flows, StoredFlows};
pub use grants::{Grants, StoredGrants};
pub use keyfile::{Contents, KeyFile, KeysError};
pub use links::{Links, StoredLinks};
pub use pending::{Pending, PendingKind, StoredPending};
pub use pins::{Keeper, PinSet, Pins, StoredPins};
pub use plans::{Plans, StoredPlans};
pub use provider_tokens::{ProviderTokens, StoredProviderTokens};
pub use quarantine::{Quarantine, StoredQuarantine};
pub use responses::{Responses, StoredResponses};
pub use reviews::{Reviews, StoredReviews};
pub use ring::{KEY, KeyBytes};
pub use root::{FileRoot, RootError, RootKey};
pub use seal::{KeyError, OsEntropy, Sealer, create_once};
pub use sessions::{Sessions, StoredSessions};
pub use signing::{SigningKeys, StoredSigningKeys};
pub use vault::{Vault, VaultError};

//! `/approvals` and `/approvals/{id}`: calls that wait for a person's yes or no (attacks.md EP-08).
//!
//! Whose decision it is, and whether it still counts, is for [`Decisions`] to say; here is the browser's half. A page is shown
//! to somebody who signed in a short while ago, with the roles they have now; its form is good in that browser and session, for
//! that request, once, for ten minutes. What the call says is a stranger's text: it is escaped, and every character of it can
//! be seen.

use async_trait::async_trait;
use bartizan_model::Timestamp;
use bartizan_store::{Digest, PendingKind};
use serde::{Deserialize, Serialize};

use super::{
    PATIENCE, SignIn, Way,
    browser::{Session, Visitor},
    consent::{Errand, Leaving},
    fields::{Fields, is_visit},
    pages,
    refusal::Refusal,
    reply::Reply,
    withheld::Withheld,
};
use crate::facade::{Asked, Person};

/// Who knows which calls wait for whom.
#[async_trait]
pub trait Decisions: Send + Sync {
    /// The calls that `person` may decide about now, the oldest first.
    ///
    /// # Errors
    /// [`Undecided::Unavailable`].
    async fn waiting(&self, person: &Person) -> Result<Vec<Held>, Undecided>;

    /// The call `id`, if `person` may decide about it or asked for it.
    ///
    /// # Errors
    /// [`Undecided`]; nothing of the call is told then.
    async fn show(&self, id: &str, person: &Person) -> Result<Held, Undecided>;

    /// Decides about the call `id` as `person`.
    ///
    /// # Errors
    /// [`Undecided`]; nothing was decided then.
    async fn decide(&self, id: &str, approve: bool, person: &Person) -> Result<Held, Undecided>;

    /// The withheld results that `person` may decide about now, the oldest first.
    ///
    /// # Errors
    /// [`Undecided::Unavailable`].
    async fn withheld(&self, person: &Person) -> Result<Vec<Withheld>, Undecided>;

    /// The withheld result `id`, if `person` may decide about it.
    ///
    /// # Errors
    /// [`Undecided`]; nothing of the result is told then.
    async fn show_withheld(&self, id: &str, person: &Person) -> Result<Withheld, Undecided>;

    /// Releases or discards the withheld result `id` as `person`.
    ///
    /// # Errors
    /// [`Undecided`]; nothing was decided then.
    async fn decide_withheld(&self, id: &str, release: bool, person: &Person) -> Result<Withheld, Undecided>;

    /// What has entered the windows of `person`'s applications, those that changed last first.
    ///
    /// # Errors
    /// [`Undecided::Unavailable`].
    async fn entered(&self, person: &Person) -> Result<Vec<Entered>, Undecided>;

    /// Forgets what has entered the window of `person` at the application `client`.
    ///
    /// # Errors
    /// [`Undecided`]; nothing was forgotten then.
    async fn reset_entered(&self, client: &str, person: &Person) -> Result<(), Undecided>;
}

/// What has entered one window of a person, for that person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The application's id, by which the window is reset.
    pub client: String,
    /// The same for eyes.
    pub shown_client: String,
    /// What entered last, for each label, in words.
    pub words: Vec<String>,
    /// Whether untrusted text and private data have met: nothing goes out any more without a person's word.
    pub have_met: bool,
}

/// A call that is held, for people: every text in it can be seen letter by letter, and none of it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The request's id: 32 hexadecimal digits.
    pub id: String,
    /// Who asks, and who vouches for them.
    pub asker: String,
    /// See `asker`.
    pub issuer: String,
    /// The application through which they ask.
    pub client: String,
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The arguments as they are forwarded.
    pub arguments: String,
    /// Bytes of the arguments that are not in `arguments`.
    pub more_bytes: usize,
    /// What the call does, in words.
    pub labels: Vec<String>,
    /// The policies that hold it.
    pub policies: Vec<String>,
    /// What was found in it and holds it, a line each. Credentials that were found are not in `arguments`.
    pub found: Vec<String>,
    /// What had entered the conversation before, in words; empty if that does not matter.
    pub because: String,
    /// The role that must approve it; empty for the asker's own word.
    pub role: String,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Until when it waits, and the decision is good.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub standing: Standing,
    /// Whether whoever looks may decide. Who asked may look.
    pub is_yours: bool,
}

/// Where a held call stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Somebody approved it, and it was not made yet.
    Approved,
    /// The tool or the policy is not what it was; an approval would be worth nothing.
    Changed,
    /// Somebody denied it.
    Denied,
    /// It waited too long.
    Expired,
    /// It was approved and made.
    Used,
    /// Nobody decided yet.
    #[default]
    Waiting,
}

/// Why nothing is shown, or was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// Nobody approves what he asked for himself.
    Own,
    /// It does not wait any more, or the tool or the policy has changed.
    Over,
    /// Somebody else's to decide.
    Role,
    /// It cannot be found out now; why, for the operator.
    Unavailable(String),
    /// There is no such request.
    Unknown,
}

/// What a decision page carries: sealed, and bound to the browser and session it is shown in.
#[derive(Serialize, Deserialize)]
struct Form {
    nonce: String,
    until: u64,
    /// The path of the page it is on.
    page: String,
}

/// What came of a form.
pub(super) enum Taken {
    /// Who decided, and whether they said yes.
    Decision(Session, bool),
    /// They have to sign in first.
    Arrival(Reply),
}

/// Something that waits for a decision, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matter<'a> {
    /// A call.
    Call(&'a str),
    /// A result that was withheld.
    Result(&'a str),
    /// All of those.
    Results,
}

impl<'a> Matter<'a> {
    /// What a path is the page of, if it is one.
    pub fn of(path: &'a str) -> Option<Self> {
        let id = |id: &&str| id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let call = path.strip_prefix("/approvals/").filter(id).map(Self::Call);
        let result = || path.strip_prefix("/quarantine/").filter(id).map(Self::Result);
        call.or_else(result).or_else(|| (path == "/quarantine").then_some(Self::Results))
    }

    /// Its page.
    pub fn path(self) -> String {
        match self {
            Self::Call(id) => format!("/approvals/{id}"),
            Self::Result(id) => format!("/quarantine/{id}"),
            Self::Results => "/quarantine".to_owned(),
        }
    }

    /// What it is, at the beginning of a sentence.
    fn words(self) -> &'static str {
        match self {
            Self::Call(_) => "A call",
            Self::Result(_) | Self::Results => "A withheld result",
        }
    }
}

impl SignIn {
    pub(super) fn decisions(&self) -> Result<&dyn Decisions, Refusal> {
        self.decisions.as_deref().ok_or(Refusal::Undecided(Undecided::Unknown))
    }

    /// `GET /approvals`
    pub(super) async fn list_held(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let decisions = self.decisions()?;
        check_visit(asked)?;
        let visitor = self.visitor(asked).await?;
        let Some(session) = &visitor.session else {
            return Ok(Reply::redirect("/account".to_owned(), "approval.arrive"));
        };
        let held = decisions.waiting(&session.person).await?;
        let reply = Reply::page(&pages::Waiting::new(&held, self.clock.now()), "approval.listed");
        Ok(reply.about_person(&session.person))
    }

    /// `GET /approvals/{id}`
    pub(super) async fn show_held(&self, asked: &Asked<'_>, id: &str) -> Result<Reply, Refusal> {
        let (decisions, matter) = (self.decisions()?, Matter::Call(id));
        check_visit(asked)?;
        let visitor = self.visitor(asked).await?;
        let Some(session) = self.deciding(&visitor) else {
            return self.sign_in_to_decide(&visitor, matter).await;
        };
        let held = decisions.show(id, &session.person).await?;
        let sealed = self.form_for(&visitor, matter)?;
        let page = pages::Decision::new(&held, &session.person, self.clock.now(), &sealed);
        let reply = Reply::page(&page, "approval.shown").cookie(self.form_cookie(&visitor));
        Ok(reply.about_client(&held.client).about_person(&session.person))
    }

    /// `POST /approvals/{id}`: takes the decision, once, from the browser and session that were asked.
    pub(super) async fn decide_held(&self, asked: &Asked<'_>, id: &str) -> Result<Reply, Refusal> {
        let decisions = self.decisions()?;
        let (session, approve) = match self.take(asked, Matter::Call(id), ["approve", "deny"]).await? {
            Taken::Decision(session, approve) => (session, approve),
            Taken::Arrival(reply) => return Ok(reply),
        };
        let held = decisions.decide(id, approve, &session.person).await?;
        Ok(self.decided(&held, &session, approve))
    }

    /// Whoever is signed in, if they may decide about anything now: by a fresh sign-in that shows what the operator wants.
    pub(super) fn deciding<'v>(&self, visitor: &'v Visitor) -> Option<&'v Session> {
        let now = self.clock.now();
        visitor.session.as_ref().filter(|session| self.session.lacking(&session.person, now).is_none())
    }

    /// The form of a matter's page, sealed for this visitor.
    pub(super) fn form_for(&self, visitor: &Visitor, matter: Matter<'_>) -> Result<String, Refusal> {
        let form = Form {
            nonce: self.random(),
            until: self.clock.now().plus(PATIENCE).as_unix(),
            page: matter.path(),
        };
        let plain = serde_json::to_vec(&form).map_err(|_| Refusal::Internal)?;
        Ok(self.sealer.seal(&context(visitor), &plain))
    }

    /// Takes what a matter's page, or the page that leads there, sends: once, from the browser and session that it was shown
    /// in. Of the two `buttons` the first says yes.
    pub(super) async fn take(
        &self,
        asked: &Asked<'_>,
        matter: Matter<'_>,
        buttons: [&str; 2],
    ) -> Result<Taken, Refusal> {
        let fields = Fields::of_form(asked, &self.origin())?;
        let visitor = self.sender(asked).await?;
        if self.deciding(&visitor).is_none() {
            if visitor.session.is_some() && fields.get("csrf").is_none() {
                // It was fresh enough when the page was shown.
                return Ok(Taken::Arrival(self.sign_in_to_decide(&visitor, matter).await?));
            }
            let path = matter.path();
            let is_ours = self.sealer.is_marked(&arrival(&visitor, &path), fields.needed("csrf")?);
            let reply = match &self.way {
                Way::Provider(_) if !is_ours => Err(Refusal::FormForeign),
                Way::Provider(_) => {
                    self.crowd.count(asked.peer, self.clock.now()).map_err(Refusal::Crowded)?;
                    self.depart(Errand::Decision { path }, Leaving::Form).await
                }
                Way::Local => Err(Refusal::NotSignedIn),
            };
            return reply.map(Taken::Arrival);
        }
        let plain =
            self.sealer.open(&context(&visitor), fields.needed("form")?).ok_or(Refusal::FormForeign)?;
        let form: Form = serde_json::from_slice(&plain).map_err(|_| Refusal::FormForeign)?;
        let until = Timestamp::from_unix(form.until);
        if self.clock.now() >= until || form.page != matter.path() {
            return Err(Refusal::FormForeign);
        }
        let [yes, no] = buttons;
        let says_yes = match fields.needed("decision")? {
            said if said == yes => true,
            said if said == no => false,
            _ => return Err(Refusal::Malformed),
        };
        let spent = Digest::of(format!("approval form {}", form.nonce).as_bytes());
        if !self.pending.keep(PendingKind::Form, &spent, b"", until).await? {
            return Err(Refusal::FormSpent);
        }
        let session = visitor.session.ok_or(Refusal::NotSignedIn)?;
        Ok(Taken::Decision(session, says_yes))
    }

    fn decided(&self, held: &Held, session: &Session, approve: bool) -> Reply {
        let (page, reason) = if approve {
            let words = "The very same call may now be made, once, before this request expires. Whoever asked has to make it \
                         again. You may close this page.";
            (
                pages::Message {
                    title: "You approved it",
                    words,
                    onward: Some(("/approvals", "What else waits")),
                },
                "approval.granted",
            )
        } else {
            let words = "The call is not made, and nobody is asked about it again while this request lives. You may close \
                         this page.";
            (
                pages::Message {
                    title: "You denied it",
                    words,
                    onward: Some(("/approvals", "What else waits")),
                },
                "approval.denied",
            )
        };
        Reply::page(&page, reason).about_client(&held.client).about_person(&session.person)
    }

    /// Nobody is signed in in this browser who may decide now: says how, and comes back to the matter afterwards.
    pub(super) async fn sign_in_to_decide(
        &self,
        visitor: &Visitor,
        matter: Matter<'_>,
    ) -> Result<Reply, Refusal> {
        let path = matter.path();
        let host = match &self.way {
            Way::Provider(provider) => Some(provider.host()),
            Way::Local => {
                self.wait_to_go_on(visitor, &path).await?;
                None
            }
        };
        let session = visitor.session.as_ref();
        let lacking = session.and_then(|session| self.session.lacking(&session.person, self.clock.now()));
        let csrf = self.sealer.mark(&arrival(visitor, &path));
        let page = pages::ArriveToDecide { host, path: &path, csrf: &csrf, what: matter.words(), lacking };
        let reason = if lacking.is_some() { "approval.arrive-again" } else { "approval.arrive" };
        let reply = Reply::page(&page, reason).cookie(self.form_cookie(visitor));
        Ok(match session {
            Some(session) => reply.about_person(&session.person),
            None => reply,
        })
    }
}

/// Whether a person goes to the page of a matter. A picture on some page is no visit: it must not have us write down that
/// somebody waits.
///
/// # Errors
/// [`Refusal::OtherSite`].
pub(super) fn check_visit(asked: &Asked<'_>) -> Result<(), Refusal> {
    if is_visit(asked) { Ok(()) } else { Err(Refusal::OtherSite) }
}

/// What a decision form that is shown to this visitor is good for.
fn context(visitor: &Visitor) -> [&[u8]; 4] {
    let [_, form, session] = visitor.context();
    [b"sign-in form", b"approval", form, session]
}

/// What the form that leads to the identity provider is good for.
fn arrival<'v>(visitor: &'v Visitor, path: &'v str) -> [&'v [u8]; 5] {
    let [_, form, session] = visitor.context();
    [b"sign-in form", b"approval arrival", form, session, path.as_bytes()]
}

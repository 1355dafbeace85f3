//! The kinds of events and the words for decisions, outcomes and risks.

use super::names::named;

named! {
    /// What kind of thing happened.
    Kind {
        /// Somebody signed in.
        SignInSucceeded = "sign_in.succeeded",
        /// A sign-in, or a token at an endpoint, was refused.
        SignInFailed = "sign_in.failed",
        /// Somebody signed out.
        SignedOut = "sign_in.ended",
        /// A token was issued: written before the client gets it.
        TokenIssued = "token.issued",
        /// A token was refreshed: written before the old one is spent and the client gets the new one.
        TokenRefreshed = "token.refreshed",
        /// A token was revoked.
        TokenRevoked = "token.revoked",
        /// A token, code or refresh token was used again after it was spent.
        TokenReplayed = "token.replayed",
        /// A client got no token, or nothing was said about one or done with it.
        TokenRefused = "token.refused",
        /// A person is shown what a client asks for.
        ConsentAsked = "consent.asked",
        /// A person let a client act for him: written before that is remembered.
        ConsentGranted = "consent.granted",
        /// A person refused a client.
        ConsentDenied = "consent.denied",
        /// A person took a consent back.
        ConsentWithdrawn = "consent.withdrawn",
        /// A person linked his account at an upstream: written before it can be used.
        AccountLinked = "account.linked",
        /// A person unlinked his account at an upstream.
        AccountUnlinked = "account.unlinked",
        /// A person's account at an upstream was not linked.
        AccountRefused = "account.refused",
        /// A client was registered, changed or removed.
        ClientChanged = "client.changed",
        /// A client's metadata document was fetched (`change` says from which version to which).
        ClientFetched = "client.fetched",
        /// A client's registration, its metadata document or what it asks a person for was refused.
        ClientRefused = "client.refused",
        /// Policy permitted or denied something.
        Authorized = "authorization.decided",
        /// A call is about to be made: written before the upstream hears of it.
        CallOpened = "call.opened",
        /// One message within an open call or stream was passed on.
        CallEvent = "call.event",
        /// A server asks the client something: sampling, elicitation, roots.
        QuestionAsked = "question.asked",
        /// The client answered what a server asked.
        QuestionAnswered = "question.answered",
        /// A call ended: written before the caller is answered.
        CallClosed = "call.closed",
        /// A request was refused before there was a call.
        RequestRefused = "request.refused",
        /// The shield found something outside a call.
        ShieldFound = "shield.found",
        /// A definition was pinned.
        PinRecorded = "pin.recorded",
        /// A server offers another definition than the pinned one.
        PinDrifted = "pin.drifted",
        /// A person is asked to decide.
        ApprovalRequested = "approval.requested",
        /// A person approved.
        ApprovalGranted = "approval.granted",
        /// A person rejected.
        ApprovalRejected = "approval.rejected",
        /// A definition was rolled back to an earlier pin.
        PinRolledBack = "pin.rolled_back",
        /// The configuration changed.
        ConfigChanged = "config.changed",
        /// Other policies are in force, or those on the disk were refused (`decision`) and the ones before stay.
        PolicyChanged = "policy.changed",
        /// The rights that the policy gives were reviewed; `count` of them give more than was used.
        PolicyReviewed = "policy.reviewed",
        /// A secret was set, rotated or removed.
        SecretChanged = "secret.changed",
        /// A key was made or rotated.
        KeyRotated = "key.rotated",
        /// A server's process started.
        ChildStarted = "child.started",
        /// A server's process stopped.
        ChildStopped = "child.stopped",
        /// A server wrote a line to its standard error.
        ServerStderr = "server.stderr",
        /// A server sent a log notification.
        ServerLog = "server.log",
        /// A component was admitted or refused by the supply-chain check.
        ComponentJudged = "component.judged",
        /// A rule over the events was met.
        AlertRaised = "alert.raised",
        /// Something was revoked, quarantined or released in response.
        Responded = "response.acted",
        /// An administrator signed in, or took or dropped a role.
        AdminActed = "admin.acted",
        /// A person was erased: no earlier entry can be tied to him any more.
        PersonErased = "person.erased",
        /// An exporter gave up on an event (`message` says which and why).
        ExportFailed = "export.failed",
        /// The log was opened by a process; `count` bytes past the last signed checkpoint were cut.
        LogOpened = "log.opened",
        /// The last checkpoint, told again so that exporters carry it away: what `verify --expect` compares with.
        LogCheckpoint = "log.checkpoint",
        /// A new segment begins.
        LogRotated = "log.rotated",
        /// `count` events could not be written since the last one that was.
        LogLost = "log.lost",
        /// Entries below number `count` are dropped because they are older than the retention allows.
        LogDropped = "log.dropped",
        /// The log was closed in good order.
        LogClosed = "log.closed",
    }
}

named! {
    /// What was decided.
    Decision {
        /// It may go on.
        Permit = "permit",
        /// It may not.
        Deny = "deny",
        /// A person decides.
        Hold = "hold",
    }
}

named! {
    /// How a call or action ended.
    Outcome {
        /// As hoped.
        Ok = "ok",
        /// The tool says that it failed (`isError`).
        ToolError = "tool_error",
        /// The upstream answered with an error.
        Error = "error",
        /// The answer was withheld.
        Withheld = "withheld",
        /// The caller cancelled.
        Cancelled = "cancelled",
        /// Nobody answered in time.
        TimedOut = "timed_out",
        /// The upstream could not be reached or broke off.
        Unreachable = "unreachable",
        /// Nothing was sent to the upstream (`reason` says why).
        NotSent = "not_sent",
        /// The caller went away before the call was closed.
        Abandoned = "abandoned",
        /// The process died during the call; found at the next start.
        Interrupted = "interrupted",
    }
}

named! {
    /// How bad a finding is.
    Severity {
        /// Worth knowing.
        Info = "info",
        /// Of little consequence.
        Low = "low",
        /// Deserves a look.
        Medium = "medium",
        /// Deserves a look today.
        High = "high",
        /// Deserves a look now.
        Critical = "critical",
    }
}

named! {
    /// A risk of the OWASP MCP Top 10.
    Owasp {
        /// Token mismanagement and secret exposure.
        Mcp01 = "MCP01",
        /// Privilege escalation through scope creep.
        Mcp02 = "MCP02",
        /// Tool poisoning.
        Mcp03 = "MCP03",
        /// Supply chain attacks and dependency tampering.
        Mcp04 = "MCP04",
        /// Command injection and execution.
        Mcp05 = "MCP05",
        /// Prompt injection through context.
        Mcp06 = "MCP06",
        /// Insufficient authentication and authorization.
        Mcp07 = "MCP07",
        /// Lack of audit and telemetry.
        Mcp08 = "MCP08",
        /// Shadow MCP servers.
        Mcp09 = "MCP09",
        /// Context injection and over-sharing.
        Mcp10 = "MCP10",
    }
}

impl super::Entry {
    /// How much this entry matters: the worst of its findings, and at least what its kind and outcome deserve.
    pub fn severity(&self) -> Severity {
        use Kind as K;
        let by_kind = match self.kind {
            K::TokenReplayed | K::PinDrifted | K::AlertRaised | K::LogLost => Severity::High,
            K::SignInFailed
            | K::TokenRefused
            | K::ClientRefused
            | K::AccountRefused
            | K::RequestRefused
            | K::ShieldFound
            | K::ExportFailed
            | K::Responded => Severity::Medium,
            K::ApprovalRejected
            | K::ConsentDenied
            | K::TokenRevoked
            | K::AdminActed
            | K::SecretChanged
            | K::KeyRotated
            | K::PolicyChanged
            | K::ConfigChanged
            | K::PersonErased
            | K::LogDropped => Severity::Low,
            _ if self.details.decision == Some(Decision::Deny) => Severity::Medium,
            _ if self.details.outcome == Some(Outcome::Withheld) => Severity::Medium,
            _ => Severity::Info,
        };
        let by_finding = self.details.findings.iter().map(|finding| finding.severity).max();
        by_finding.unwrap_or(Severity::Info).max(by_kind)
    }
}

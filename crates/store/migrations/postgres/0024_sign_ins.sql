-- What the identity provider gave the gate at each sign-in, to act for the person or to ask whether they are still there. What
-- was kept by person alone cannot be told apart by sign-in: people sign in again. `sealed` is bound to its row.
DROP TABLE provider_tokens;
CREATE TABLE provider_tokens (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    sign_in TEXT NOT NULL,
    sealed TEXT NOT NULL,
    revision BIGINT NOT NULL,
    kept_at BIGINT NOT NULL,
    confirmed_at BIGINT NOT NULL,
    renewing_until BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject, sign_in)
);
CREATE INDEX provider_tokens_confirmed ON provider_tokens (confirmed_at);

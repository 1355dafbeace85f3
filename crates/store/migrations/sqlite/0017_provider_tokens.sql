-- What the identity provider gave the gate at a person's last sign-in, to act for them. `sealed` is bound to its row.
CREATE TABLE provider_tokens (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    sealed TEXT NOT NULL,
    revision BIGINT NOT NULL,
    kept_at BIGINT NOT NULL,
    renewing_until BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);

-- Who may do what at the admin listener, and until when: granted by command, beside what the configuration says.
CREATE TABLE admin_roles (
    role TEXT NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    granted_by TEXT NOT NULL,
    granted_at BIGINT NOT NULL,
    good_until BIGINT NOT NULL,
    PRIMARY KEY (role, issuer, subject)
);

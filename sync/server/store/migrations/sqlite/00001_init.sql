-- +goose Up
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE changes (seq INTEGER PRIMARY KEY, at BIGINT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
	subject TEXT NOT NULL, detail TEXT NOT NULL, request TEXT NOT NULL);
CREATE TABLE policies (id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL, organization TEXT NOT NULL,
	active BIGINT NOT NULL, version BIGINT NOT NULL, compliance TEXT NOT NULL, sections TEXT NOT NULL, data TEXT NOT NULL,
	digest TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE TABLE versions (policy TEXT NOT NULL, version BIGINT NOT NULL, changed_by TEXT NOT NULL, changed_at BIGINT NOT NULL,
	changes TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (policy, version));
CREATE TABLE assignments (id TEXT PRIMARY KEY, policy TEXT NOT NULL, platform TEXT NOT NULL, ownership TEXT NOT NULL,
	username TEXT NOT NULL, tag TEXT NOT NULL, priority BIGINT NOT NULL, compliance TEXT NOT NULL, created_at BIGINT NOT NULL, created_by TEXT NOT NULL);
CREATE TABLE rollouts (id TEXT PRIMARY KEY, policy TEXT NOT NULL, from_version BIGINT NOT NULL, to_version BIGINT NOT NULL,
	plan TEXT NOT NULL, state TEXT NOT NULL, stage BIGINT NOT NULL, stage_since BIGINT NOT NULL, reason TEXT NOT NULL,
	created_at BIGINT NOT NULL, created_by TEXT NOT NULL, ended_at BIGINT NOT NULL);
CREATE INDEX rollouts_policy ON rollouts (policy, created_at);
CREATE TABLE rollout_devices (rollout TEXT NOT NULL, device BIGINT NOT NULL, was TEXT NOT NULL, outcome TEXT NOT NULL, PRIMARY KEY (rollout, device));
CREATE TABLE devices (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, key TEXT NOT NULL, machine TEXT NOT NULL,
	host TEXT NOT NULL, os TEXT NOT NULL, ownership TEXT NOT NULL, username TEXT NOT NULL, tags TEXT NOT NULL,
	policy TEXT, priority BIGINT NOT NULL, compliance TEXT NOT NULL, state TEXT NOT NULL, enrolled_at BIGINT NOT NULL,
	enrollment TEXT NOT NULL, excepted BIGINT NOT NULL DEFAULT 0, diagnose BIGINT NOT NULL DEFAULT 0);
CREATE INDEX devices_group ON devices (n, state, policy, priority, os, ownership, username, tags);
CREATE TABLE seen (device INTEGER PRIMARY KEY, at BIGINT NOT NULL, counter BIGINT NOT NULL, assigned BIGINT NOT NULL);
CREATE TABLE reports (device INTEGER PRIMARY KEY, counter BIGINT NOT NULL, held_id TEXT NOT NULL, held_version BIGINT NOT NULL,
	held TEXT NOT NULL, agent TEXT NOT NULL, previous TEXT NOT NULL, facts_digest TEXT NOT NULL, facts TEXT, findings_digest TEXT NOT NULL,
	findings TEXT, findings_at BIGINT NOT NULL, standing TEXT NOT NULL, rollup TEXT NOT NULL);
CREATE INDEX reports_standing ON reports (held_id, standing, rollup);
CREATE TABLE standings (hash TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE epochs (device BIGINT NOT NULL, epoch TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (device, epoch)) WITHOUT ROWID;
CREATE TABLE events (device BIGINT NOT NULL, epoch TEXT NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL, received BIGINT NOT NULL,
	body TEXT NOT NULL, PRIMARY KEY (device, epoch, first));
CREATE INDEX events_received ON events (received);
CREATE TABLE enrollments (id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, uses BIGINT NOT NULL, used BIGINT NOT NULL, expires BIGINT NOT NULL,
	note TEXT NOT NULL, ownership TEXT NOT NULL, username TEXT NOT NULL, tags TEXT NOT NULL, policy TEXT,
	created_at BIGINT NOT NULL, created_by TEXT NOT NULL, revoked_at BIGINT NOT NULL DEFAULT 0);
CREATE TABLE exceptions (id TEXT PRIMARY KEY, device BIGINT NOT NULL, usb TEXT NOT NULL, reason TEXT NOT NULL, created_by TEXT NOT NULL,
	created_at BIGINT NOT NULL, until BIGINT NOT NULL, ended_at BIGINT NOT NULL DEFAULT 0, offline BIGINT NOT NULL);
CREATE INDEX exceptions_device ON exceptions (device, created_at);
CREATE TABLE diagnostics (id TEXT PRIMARY KEY, device BIGINT NOT NULL, at BIGINT NOT NULL, size BIGINT NOT NULL, body BLOB NOT NULL);
CREATE INDEX diagnostics_device ON diagnostics (device, at);
CREATE TABLE idempotency (actor TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, at BIGINT NOT NULL, seq BIGINT NOT NULL,
	status BIGINT NOT NULL DEFAULT 0, response TEXT NOT NULL DEFAULT '', PRIMARY KEY (actor, key)) WITHOUT ROWID;

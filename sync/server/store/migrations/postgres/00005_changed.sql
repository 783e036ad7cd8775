-- +goose Up
-- Every node keeps how devices stand in memory, and reads what others wrote, nodes of an older version too: the
-- transaction that last changed it stands beside it.
ALTER TABLE reports ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX reports_changed ON reports (changed);
-- +goose StatementBegin
CREATE FUNCTION reports_changed() RETURNS trigger AS $$
BEGIN
	NEW.changed := txid_current();
	RETURN NEW;
END
$$ LANGUAGE plpgsql;
-- +goose StatementEnd
CREATE TRIGGER reports_inserted BEFORE INSERT ON reports FOR EACH ROW EXECUTE FUNCTION reports_changed();
CREATE TRIGGER reports_updated BEFORE UPDATE ON reports FOR EACH ROW
	WHEN (OLD.held_id <> NEW.held_id OR OLD.held_version <> NEW.held_version OR OLD.standing <> NEW.standing OR OLD.rollup <> NEW.rollup OR
		(OLD.agent LIKE '%"ended":%') <> (NEW.agent LIKE '%"ended":%')) EXECUTE FUNCTION reports_changed();

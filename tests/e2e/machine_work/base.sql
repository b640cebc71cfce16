PRAGMA journal_mode = wal;
CREATE TABLE t (id INTEGER PRIMARY KEY, value INTEGER, text TEXT);
CREATE INDEX by_text ON t (text);
BEGIN;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO t SELECT i, i, printf('%08x-%s', i * 2654435761 % 4294967296, hex(i)) FROM n;
COMMIT;
PRAGMA integrity_check;
BEGIN;
UPDATE t SET value = 2 * value WHERE id % 3 = 0;
DELETE FROM t WHERE id % 7 = 0;
COMMIT;
SELECT count(*), sum(value) FROM t;
BEGIN;
UPDATE t SET text = 'other' || text;
ROLLBACK;
VACUUM;
PRAGMA integrity_check;
SELECT count(*) FROM t WHERE text LIKE 'other%';

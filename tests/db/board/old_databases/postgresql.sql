BEGIN;

SET LOCAL lock_timeout = '600s';

SET LOCAL statement_timeout = '600s';

SELECT pg_advisory_xact_lock(8029467788658176872);

SET LOCAL lock_timeout = '5s';

SET LOCAL statement_timeout = '600s';

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 0001

CREATE TABLE teams (
    id BIGSERIAL NOT NULL,
    name VARCHAR(64) NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT pk_teams PRIMARY KEY (id),
    CONSTRAINT ck_teams_name CHECK (length(name) BETWEEN 1 AND 64),
    CONSTRAINT uq_teams_name UNIQUE (name)
);

CREATE TABLE tasks (
    id VARCHAR(32) NOT NULL,
    task_status SMALLINT DEFAULT 101 NOT NULL,
    s3_keys JSON DEFAULT '{}' NOT NULL,
    bundle VARCHAR(64) NOT NULL,
    granularity VARCHAR(8) NOT NULL,
    target_date DATE NOT NULL,
    change_id INTEGER NOT NULL,
    team_id BIGINT,
    version INTEGER DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT pk_tasks PRIMARY KEY (id),
    CONSTRAINT ck_tasks_id CHECK (length(id) = 32 AND id = lower(id)),
    CONSTRAINT ck_tasks_task_status CHECK (task_status IN (101, 102, 200, 400, 99)),
    CONSTRAINT ck_tasks_bundle CHECK (length(bundle) BETWEEN 1 AND 64),
    CONSTRAINT ck_tasks_granularity CHECK (granularity IN ('hourly', 'daily', 'weekly', 'monthly')),
    CONSTRAINT ck_tasks_change_id CHECK (change_id BETWEEN 0 AND 2147483647),
    CONSTRAINT ck_tasks_version CHECK (version >= 1),
    CONSTRAINT fk_tasks_team_id_teams FOREIGN KEY(team_id) REFERENCES teams (id)
);

CREATE INDEX ix_tasks_create_time_id ON tasks (create_time, id);

CREATE INDEX ix_tasks_task_status_create_time_id ON tasks (task_status, create_time, id);

CREATE INDEX ix_tasks_bundle_create_time_id ON tasks (bundle, create_time, id);

CREATE INDEX ix_tasks_granularity_create_time_id ON tasks (granularity, create_time, id);

CREATE INDEX ix_tasks_team_id_create_time_id ON tasks (team_id, create_time, id);

CREATE INDEX ix_tasks_target_date_create_time_id ON tasks (target_date, create_time, id);

CREATE TABLE transfers (
    id BIGSERIAL NOT NULL,
    task_id VARCHAR(32) NOT NULL,
    from_team_id BIGINT,
    to_team_id BIGINT,
    note VARCHAR(1000),
    create_time TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT pk_transfers PRIMARY KEY (id),
    CONSTRAINT ck_transfers_goes_somewhere CHECK (coalesce(from_team_id, 0) <> coalesce(to_team_id, 0)),
    CONSTRAINT ck_transfers_note CHECK (length(note) <= 1000),
    CONSTRAINT fk_transfers_task_id_tasks FOREIGN KEY(task_id) REFERENCES tasks (id) ON DELETE CASCADE
);

CREATE INDEX ix_transfers_task_id_id ON transfers (task_id, id);

INSERT INTO alembic_version (version_num) VALUES ('0001') RETURNING alembic_version.version_num;

-- Running upgrade 0001 -> 0002

CREATE TABLE commit_witness (
    connection VARCHAR(32) NOT NULL,
    transaction VARCHAR(32) NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT pk_commit_witness PRIMARY KEY (connection)
);

UPDATE alembic_version SET version_num='0002' WHERE alembic_version.version_num = '0001';

-- Running upgrade 0002 -> 0003

CREATE TABLE idempotency_keys (
    method VARCHAR(16) NOT NULL,
    path VARCHAR(512) NOT NULL,
    key VARCHAR(255) NOT NULL,
    fingerprint VARCHAR(64) NOT NULL,
    status SMALLINT,
    headers JSON,
    body BYTEA,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP NOT NULL,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (method, path, key)
);

CREATE INDEX ix_idempotency_keys_create_time ON idempotency_keys (create_time);

UPDATE alembic_version SET version_num='0003' WHERE alembic_version.version_num = '0002';

-- Running upgrade 0003 -> 0004

CREATE INDEX ix_tasks_create_time_id_target_date ON tasks (create_time, id, target_date);

DROP INDEX ix_tasks_create_time_id;

UPDATE alembic_version SET version_num='0004' WHERE alembic_version.version_num = '0003';

-- Running upgrade 0004 -> 0005

ALTER TABLE idempotency_keys ADD COLUMN attempt VARCHAR(32);

UPDATE alembic_version SET version_num='0005' WHERE alembic_version.version_num = '0004';

COMMIT;

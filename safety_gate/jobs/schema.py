"""The tables, the same in SQLite and PostgreSQL but for two words."""

from typing import Final

VERSION: Final = "2"  # of the tables; another one in the database stops the start

TABLES: Final = (
    "create table if not exists sg_meta (name text primary key, value text not null)",
    """create table if not exists sg_job (
        id {id},
        repo text not null, ref text not null, sha text not null, policy text not null,
        priority integer not null,
        state text not null check (state in
            ('queued', 'running', 'done', 'superseded', 'ignored', 'dead')),
        opened bigint not null,
        attempt integer not null default 0, tries integer not null default 0,
        holder text not null default '',
        lease_until double precision not null default 0,
        run_after double precision not null default 0,
        created double precision not null, changed double precision not null,
        why text not null default '',
        ticket bigint,
        unique (repo, ref, sha, policy))""",
    # The database itself refuses two running jobs of one repository.
    "create unique index if not exists sg_one_running on sg_job (repo) where state = 'running'",
    "create index if not exists sg_queue on sg_job (priority desc, opened) where state = 'queued'",
    "create index if not exists sg_newest on sg_job (repo, ref, policy, opened)",
    "create index if not exists sg_opened on sg_job (opened)",
    """create table if not exists sg_verdict (
        job bigint primary key references sg_job (id),
        repo text not null, ref text not null, sha text not null, policy text not null,
        word text not null check (word in ('passed', 'blocked', 'undecided')),
        report text not null, repaired text not null default '',
        attempt integer not null, decided double precision not null)""",
    "create index if not exists sg_verdict_of on sg_verdict (repo, sha, policy, decided)",
    "create index if not exists sg_verdict_newest on sg_verdict (decided)",
    """create table if not exists sg_step (
        job bigint not null references sg_job (id), name text not null,
        state text not null check (state in ('begun', 'done')),
        attempt integer not null, oid text not null, url text not null, note text not null,
        changed double precision not null, primary key (job, name))""",
    """create table if not exists sg_own (
        oid text primary key, repo text not null, made double precision not null)""",
    "create index if not exists sg_own_of on sg_own (repo, made)",
    """create table if not exists sg_arrival (
        repo text not null, ref text not null, sha text not null, answer text not null,
        times bigint not null, first double precision not null, latest double precision not null,
        primary key (repo, ref, sha, answer))""",
)
SQLITE_ID: Final = "integer primary key"
POSTGRES_ID: Final = "bigint generated always as identity primary key"

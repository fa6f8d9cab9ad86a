/* Which probes there are. */
#include "probe.h"

const struct group groups[] = {
	{"keys", probe_keys},
	{"errnos", probe_errnos},
	{"arguments", probe_arguments},
	{"walk", probe_walk},
	{"process_madvise", probe_process_madvise},
	{"seal", probe_seal},
	{"guard", probe_guard},
	{"zero_page", probe_zero_page},
	{"pagemap", probe_pagemap},
	{"page_tables", probe_page_tables},
	{"free", probe_free},
	{"counters", probe_counters},
	{"recency", probe_recency},
	{"fork", probe_fork},
	{"faults", probe_faults},
	{"lock", probe_lock},
	{"files", probe_files},
	{"mappings", probe_mappings},
	{"huge", probe_huge},
	{"huge_pool", probe_huge_pool},
	{NULL, NULL},
};

package reportrole

import "example.org/threatstopd/agent/internal/status"

// describe fills in what the role knows.
func (r *role) describe(s *status.Status) {
	s.Hits.Mode, s.Hits.Interface = r.setup.Mode, r.setup.Interface
	if r.setup.Reporting == nil {
		return
	}
	s.Uploads.Server, s.Uploads.SpoolDir, s.Uploads.DiskMax = r.setup.LogServer, r.setup.Reporting.SpoolDir, r.setup.Reporting.SpoolMax
	reporter, why := r.reading()
	if reporter == nil {
		s.Hits.Error = why
		return
	}
	reporter.Describe(&s.Hits, &s.Uploads)
}

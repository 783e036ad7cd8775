package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// stats are the server's metrics. Names and units follow Prometheus' conventions.
type stats struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	checkins *prometheus.CounterVec
	events   prometheus.Counter
	shed     prometheus.Counter
	quota    prometheus.Counter
	batches  prometheus.Histogram
	nudges   prometheus.Counter
	loads    prometheus.Counter

	news, quiet prometheus.Counter // of checkins
}

// newStats registers the metrics.
func newStats(a *API) *stats {
	s := &stats{registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warder_http_requests_total",
			Help: "Requests by route and status."}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "warder_http_request_seconds", Help: "Time to answer by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5}}, []string{"route"}),
		checkins: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warder_checkins_total",
			Help: "Check-ins, by whether they brought news."}, []string{"news"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "warder_events_stored_total",
			Help: "Events that devices reported and that were stored."}),
		shed: prometheus.NewCounter(prometheus.CounterOpts{Name: "warder_requests_shed_total",
			Help: "Requests answered 503 because of the limit on requests in flight."}),
		quota: prometheus.NewCounter(prometheus.CounterOpts{Name: "warder_device_quota_total",
			Help: "Reports of devices that had more to say than a device may: refused, or taken without their events."}),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warder_batch_reports", Help: "Reports written in one transaction.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}}),
		nudges: prometheus.NewCounter(prometheus.CounterOpts{Name: "warder_nudges_total", Help: "Nudges sent on push sockets."}),
		loads: prometheus.NewCounter(prometheus.CounterOpts{Name: "warder_device_loads_total",
			Help: "Devices read from the database for a request."}),
	}
	s.news, s.quiet = s.checkins.WithLabelValues("true"), s.checkins.WithLabelValues("false")
	s.registry.MustRegister(s.requests, s.seconds, s.checkins, s.events, s.shed, s.quota, s.batches, s.nudges, s.loads,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "warder_push_sockets", Help: "Push sockets that are up on this node."},
			func() float64 { return float64(a.hub.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "warder_requests_in_flight", Help: "Requests that are being answered."},
			func() float64 { return float64(len(a.inFlight)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "warder_change_sequence", Help: "The last change that this node follows."},
			func() float64 { return float64(a.state.Load().Sequence) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "warder_seen_waiting",
			Help: "Check-ins without news whose time is not written yet."}, func() float64 { return float64(a.batch.waiting()) }))
	return s
}

// checkin counts a check-in, by whether it brought news.
func (s *stats) checkin(news bool) {
	if news {
		s.news.Inc()
	} else {
		s.quiet.Inc()
	}
}

// route returns the counter of a route.
func (s *stats) route(r *route) func(status int, took time.Duration) {
	name := r.method + " " + r.path
	seconds := s.seconds.WithLabelValues(name)
	good := s.requests.WithLabelValues(name, "200")
	return func(status int, took time.Duration) {
		if status == 0 {
			return // a socket, taken over
		}
		seconds.Observe(took.Seconds())
		if status == http.StatusOK {
			good.Inc()
			return
		}
		s.requests.WithLabelValues(name, strconv.Itoa(status)).Inc()
	}
}

// operational serves what the operator needs: without a token, and without data about devices.
func (a *API) operational(mux *http.ServeMux) {
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.stats.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { a.write(w, http.StatusOK, map[string]bool{"ok": true}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, q *http.Request) {
		if why := a.unready(q.Context()); why != "" {
			a.write(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "reason": why})
			return
		}
		a.write(w, http.StatusOK, map[string]any{"ready": true})
	})
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(a.openapi)
	})
	mux.HandleFunc("GET /openapi-3.0.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(a.openapi30)
	})
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = w.Write(a.page)
	})
}

// unready says why this node should get no requests now; "" if it should.
func (a *API) unready(ctx context.Context) string {
	if a.stopping.Load() {
		return "stopping"
	}
	a.pinging.Lock()
	defer a.pinging.Unlock()
	// At most once a second, because it needs no token.
	if time.Since(a.pinged) > time.Second {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		a.pingError, a.pinged = a.Store.Ping(ctx), time.Now()
		if a.pingError != nil {
			a.Log.Error("the database cannot be written", "error", a.pingError)
		}
	}
	if a.pingError != nil {
		return "the database cannot be written"
	}
	return ""
}

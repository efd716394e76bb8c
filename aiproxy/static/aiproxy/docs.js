// Starts Swagger UI. A file of its own: the policy allows no script in the page.
const page = document.getElementById("swagger-ui");

SwaggerUIBundle({
  url: page.dataset.url,
  domNode: page,
  deepLinking: true,
  validatorUrl: null, // a service of others, which would be told our address
  requestInterceptor: (request) => {
    if (request.method !== "GET" && new URL(request.url, location).origin === location.origin) {
      request.headers["X-CSRFToken"] = page.dataset.csrf; // for who is signed in by a session
    }
    return request;
  },
});
